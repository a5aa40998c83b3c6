"""`cfpp restore`: photographs or aligned faces through a model."""

import argparse
import os
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpp.errors import MendableError

if TYPE_CHECKING:
    from cfpp.data.work_list import WorkList
    from cfpp.registry.restorers import Opened
    from cfpp.restoration.restorer import Restorer
    from cfpp.restoration.stream import Outcome
    from cfpp.restoration.tasks import Task

COMPARED = "compare"


def add_parser(commands: Any) -> None:
    """Add `restore` to the sub-parsers of argparse."""
    restore = commands.add_parser(
        "restore",
        help="restore photographs or aligned faces",
        description="Restore every face of photographs. A result has its input's format, name and metadata; "
        "a photograph without a face is copied. Exit code 0: every file was restored or copied.",
    )
    restore.add_argument(
        "inputs", nargs="+", metavar="IN", help="files, folders (recursive) or quoted patterns"
    )
    restore.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    restore.add_argument("--aligned", action="store_true", help="every file is one aligned face")
    restore.add_argument(
        "--model",
        metavar="MODEL",
        help="a folder of prior, dam and tgrn, or a version of the registry: its number, its alias, or "
        "models:/NAME@ALIAS; default: the champion",
    )
    restore.add_argument(
        "--w", type=float, default=0.0, help="0: most texture (default), to 1: most fidelity"
    )
    restore.add_argument("--size", type=int, help="side of restored aligned faces; default: the model's")
    restore.add_argument("--device", help="cpu, cuda or cuda:N; default: the GPU where there is one")
    restore.add_argument("--batch", type=int, default=8, help="faces at once, of one or several files")
    restore.add_argument("--overwrite", action="store_true", help="replace results that are there")
    restore.add_argument(
        "--compare",
        action="store_true",
        help=f"also write input and result side by side, as JPEG, into OUT/{COMPARED}",
    )
    restore.add_argument(
        "--gp",
        type=Path,
        help="folder of I_G by the inputs' names, which are then I_F, aligned (prior.kind: folder)",
    )
    restore.set_defaults(run=_restore)


def _restore(options: argparse.Namespace) -> None:
    from cfpp.data.work_list import WorkList
    from cfpp.progress import progress_bar
    from cfpp.restoration.stream import Settings, model_threads, restore_files
    from cfpp.schema import require

    aligned = options.aligned or options.gp is not None
    require(0 <= options.w <= 1, "--w", "be 0 to 1", options.w)
    require(options.batch >= 1, "--batch", "be 1 or more", options.batch)
    if options.size is not None:
        require(16 <= options.size <= 4096, "--size", "be 16 to 4096", options.size)
        if not aligned:
            raise MendableError("--size is for --aligned: a photograph keeps its size")
    plan = WorkList.plan(options.inputs, options.out)
    if not plan.works and not plan.missing:
        raise MendableError(f"{', '.join(options.inputs)}: no pictures, and {len(plan.ignored)} other files")
    compare = options.out / COMPARED if options.compare else None
    _check_output(options.out, compare, plan)

    opened = _open(options.model, options.device)
    restorer = opened.restorer
    if restorer.prior is None and options.gp is None:
        raise MendableError(
            f"{opened.title}: knows another prior's pictures only (prior.kind: folder); "
            "give it I_F, and I_G by --gp"
        )
    task = _task(options, aligned, restorer)
    print(f"{opened.title}, on {restorer.device}; ready after {_age(time.time()):.1f} s", flush=True)

    outcomes: list[Outcome] = []
    first: Outcome | None = None
    threads = model_threads(restorer.device)
    settings = Settings(options.batch, options.w, options.overwrite, compare, models=threads)
    bar = progress_bar(len(plan.works), "restore", "file")
    try:
        model = restorer.restore if options.gp is None else restorer.fuse
        for outcome in restore_files(plan.works, task, model, settings):
            outcomes.append(outcome)
            bar.update(1)
            if first is None and outcome.status == "restored":
                first = outcome
                bar.set_postfix_str(f"first picture after {_age(first.finished):.1f} s", False)
    finally:
        bar.close()
        _tell(plan, outcomes, first, options.out)
    undone = sum(outcome.status in ("skipped", "failed") for outcome in outcomes) + len(plan.missing)
    if undone:
        raise MendableError(f"{undone} of {len(plan.works) + len(plan.missing)} were not restored; see above")


def _check_output(out: Path, compare: Path | None, plan: "WorkList") -> None:
    """Refuse an output folder where nothing can be written before a model is loaded for it.

    It is left as it was found: a start that fails after this makes no folder.
    """
    from cfpp.restoration.stream import compare_path

    if compare is not None:
        beside = {compare_path(compare, work) for work in plan.works}
        for work in plan.works:
            if work.target in beside:
                raise MendableError(f"{work.source}: its result would be a side-by-side picture's; rename it")
    made = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise MendableError(
            f"{out}: nothing can be written there: {error.strerror}; choose another output folder"
        ) from error
    finally:
        for folder in made:
            with suppress(OSError):  # never made, or no longer empty
                folder.rmdir()


def _open(reference: str | None, device: str | None) -> "Opened":
    from cfpp.config import load_params
    from cfpp.registry.provenance import RegistryError
    from cfpp.registry.restorers import named_device, open_folder, open_restorer

    place = named_device(device)
    if reference is not None and Path(reference).is_dir():
        return open_folder(Path(reference), place)
    params = load_params().mlflow
    try:
        return open_restorer(reference or f"models:/{params.model_name}@champion", params, Path(), place)
    except RegistryError as error:
        raise RegistryError(
            f"{error}. A folder of models needs no registry: --model models. "
            "A registered version becomes champion by python -m pipelines.promote"
        ) from error


def _task(options: argparse.Namespace, aligned: bool, restorer: "Restorer") -> "Task":
    from cfpp.config import load_params
    from cfpp.models.face_detector import FaceDetector
    from cfpp.restoration.tasks import AlignedFaces, WholePhotographs

    if aligned:
        return AlignedFaces(restorer, options.size or restorer.size, options.gp)
    try:
        detector = FaceDetector.load(load_params().weights.root, device=restorer.device)
    except MendableError as error:
        raise MendableError(f"{error}. Faces that are aligned already need no detector: --aligned") from error
    return WholePhotographs(restorer, detector)


def _age(moment: float) -> float:
    """Seconds from the start of this process to a moment since the epoch."""
    import psutil

    return moment - psutil.Process().create_time()


def _tell(plan: "WorkList", outcomes: "list[Outcome]", first: "Outcome | None", out: Path) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    faces = sum(outcome.faces for outcome in outcomes)
    print(
        f"{out}: files: {len(plan.works)}; restored: {counts['restored']}, faces: {faces}; "
        f"copied: {counts['copied']}; skipped: {counts['skipped']}; failed: {counts['failed']}; "
        f"not found: {len(plan.missing)}"
    )
    if first is not None:
        print(f"First picture after {_age(first.finished):.1f} s")
    if plan.ignored:
        print(f"Ignored, no pictures by their names: {len(plan.ignored)}, such as {plan.ignored[0]}")
    for outcome in outcomes:
        if outcome.notes or outcome.status != "restored":
            print(f"{outcome.status}: {outcome.work.source}: {'; '.join(outcome.notes)}")
    for name, reason in plan.missing.items():
        print(f"not found: {name}: {reason}")

"""`cfpp evaluate`: restorers against the truth, against each other, or without a truth, in one table."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpp.errors import MendableError

if TYPE_CHECKING:
    from cfpp.config import Params, WeightsParams
    from cfpp.evaluation.contest import Contest
    from cfpp.evaluation.distributions import InceptionFeatures
    from cfpp.evaluation.folders import PictureFolder, RestoredInputs, Source
    from cfpp.evaluation.outcome import Outcome
    from cfpp.evaluation.unavailable import Unavailable

_NAME = re.compile(r"[A-Za-z0-9_.+@-]+")
_OWN = ("truth", "input", "reference")  # names of the other columns
_LEAST_SIDE = 32  # pixels; LPIPS on AlexNet needs 31
_OTHERS = "knows another prior's pictures only; restore them with cfpp restore --gp, then give NAME=FOLDER"


def add_parser(commands: Any) -> None:
    """Add `evaluate` to the sub-parsers of argparse."""
    evaluate = commands.add_parser("evaluate", help="measure restorers' pictures, and compare them")
    evaluate.add_argument(
        "results", nargs="*", metavar="NAME=FOLDER", help="a restorer's pictures; the first is the baseline"
    )
    evaluate.add_argument("--out", type=Path, required=True, help="folder to write to")
    evaluate.add_argument("--truth", type=Path, help="folder of I_HQ by the same names")
    evaluate.add_argument("--reference", type=Path, help="folder of real faces for FID and KID")
    evaluate.add_argument("--inputs", type=Path, help="folder of aligned degraded faces by the same names")
    evaluate.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]MODEL",
        help="restores --inputs: a folder of prior, dam and tgrn, or a version in the registry: "
        "models:/NAME@ALIAS, models:/NAME/NUMBER, a number or an alias",
    )
    evaluate.add_argument("--people", default="", metavar="REGEX", help="group 1 of the stem is the person")
    evaluate.add_argument("--size", type=int, help="bring every picture to this side, pixels")
    evaluate.add_argument("--common", action="store_true", help="measure the names that all folders have")
    evaluate.add_argument(
        "--procedural", action="store_true", help="the faces are the embedded procedural ones"
    )
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from cfpp.config import load_params
    from cfpp.evaluation.bootstrap import Bootstrap
    from cfpp.evaluation.contest import REFERENCE
    from cfpp.evaluation.measure import build_instruments
    from cfpp.evaluation.outcome import hold
    from cfpp.evaluation.standings import counted, table

    params = load_params()
    contest, inputs = _contest(options, params)
    outcome = hold(
        contest,
        build_instruments("procedural" if options.procedural else "folder", params.weights),
        _inception(params.weights),
        Bootstrap(params.evaluate.bootstrap, params.evaluate.confidence, params.run.seed),
        params.evaluate.batch_size,
    )
    _write(options.out, contest, inputs, outcome)
    print(table(outcome.summary))
    if outcome.left_out:
        faces = {fault.stem for fault in outcome.left_out if fault.source != REFERENCE}
        raise MendableError(
            f"{counted(len(outcome.left_out), 'picture')} cannot be measured, which costs every restorer "
            f"{counted(len(faces), 'face')}; {options.out / 'metrics.json'} names what is left out"
        )


def _contest(options: argparse.Namespace, params: "Params") -> "tuple[Contest, PictureFolder | None]":
    """What the command line asks for, and the inputs."""
    from cfpp.evaluation.contest import Contest, people_of
    from cfpp.evaluation.folders import FoldersError, PictureFolder, Source, match

    if options.size is not None and options.size < _LEAST_SIDE:
        raise FoldersError(f"--size {options.size}: must be {_LEAST_SIDE} or more")
    folders = [_named(text) for text in options.results]
    models = [_model_name(text) for text in options.model]
    names = [name for name, _ in folders + models]
    _check_names(names)
    given = [Path(folder) for _, folder in folders] + [options.truth, options.reference, options.inputs]
    if options.out.resolve() in {folder.resolve() for folder in given if folder is not None}:
        raise FoldersError(f"--out {options.out}: is a folder of pictures; name another")
    there = next(path for path in (options.out, *options.out.parents) if path.exists())
    if not there.is_dir():
        raise FoldersError(f"--out {options.out}: {there} is a file; name a folder")
    if models and options.inputs is None:
        raise FoldersError("--model restores --inputs; name that folder")

    truth = PictureFolder.open("truth", options.truth) if options.truth else None
    reference = PictureFolder.open("reference", options.reference) if options.reference else None
    inputs = PictureFolder.open("input", options.inputs) if options.inputs else None
    entrants: list[Source] = [PictureFolder.open(name, Path(folder)) for name, folder in folders]
    if inputs is not None:
        entrants += [_restored(name, model, inputs, params) for name, model in models]
    beside = [folder for folder in (truth, inputs) if folder is not None]
    faces = match([*beside, *entrants], common=options.common)
    size = options.size or _side(truth or entrants[0], faces.stems)
    resize = options.size is not None
    if reference is not None and not resize:
        # before anything is measured: its pictures are read last, and all that differ would be left out
        side = _side(reference, sorted(reference.stems))
        if side != size:
            raise FoldersError(
                f"{reference.origin}: most of its pictures are {side} pixels wide, those to be measured "
                f"{size}; --size brings all to one"
            )
    people = people_of(faces.stems, options.people)
    return Contest(tuple(entrants), truth, reference, faces, size, resize, people), inputs


def _side(source: "Source", stems: Sequence[str]) -> int:
    """Side, pixels, of most of these pictures."""
    side = source.usual_side(stems)
    if side is None:
        raise MendableError(f"{source.origin}: no square picture can be read")
    return side


def _named(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (separator and value):
        raise MendableError(f"{text}: expected NAME=FOLDER")
    return name, value


def _model_name(text: str) -> tuple[str, str]:
    """Name and model; without a name it is the model's last part."""
    name, separator, model = text.partition("=")
    return (name, model) if separator else (re.split(r"[/@]", text.rstrip("/"))[-1] or "model", text)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise MendableError("nothing to measure: give NAME=FOLDER, or --model with --inputs")
    for name in names:
        if not _NAME.fullmatch(name):
            raise MendableError(f"{name!r}: a name is letters, digits, and _ . + @ -")
        if names.count(name) > 1 or name in _OWN:
            raise MendableError(f"{name}: is the name of another column; use NAME=")


def _restored(name: str, model: str, inputs: "PictureFolder", params: "Params") -> "RestoredInputs":
    """A model of a local folder, or of the registry."""
    from cfpp.evaluation.folders import RestoredInputs
    from cfpp.registry.restorers import open_restorer

    opened = open_restorer(model, params.mlflow, Path.cwd())
    if opened.restorer.prior is None:
        raise MendableError(f"{opened.title}: {_OTHERS}")
    return RestoredInputs(name, f"{opened.title} ({opened.weights})", inputs, opened.restorer.restore)


def _inception(weights: "WeightsParams") -> "InceptionFeatures | Unavailable":
    """FID's network, or why there is none."""
    import torch

    from cfpp.evaluation.distributions import InceptionFeatures
    from cfpp.evaluation.unavailable import Unavailable
    from cfpp.models.catalogue import INCEPTION
    from cfpp.models.external import find_external, why_missing

    found = find_external(weights.root, INCEPTION)
    if found is None:
        return Unavailable(why_missing(weights.root, INCEPTION))
    return InceptionFeatures(found[0], "cuda" if torch.cuda.is_available() else "cpu")


def _write(out: Path, contest: "Contest", inputs: "PictureFolder | None", outcome: "Outcome") -> None:
    """metrics.json, per_image.csv and faces.jpg."""
    import numpy as np

    from cfpp.data.pictures import Picture, PictureError, save
    from cfpp.evaluation.standings import choose_faces, sheet
    from cfpp.files import replacing

    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "metrics.json") as path:
        path.write_text(json.dumps(outcome.summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with replacing(out / "per_image.csv") as path:
        rows = outcome.rows.drop(columns="variant", errors="ignore").rename(columns={"kind": "restorer"})
        rows.to_csv(path, index=False, float_format="%.6g")
    columns = {source.name: source for source in contest.measured}
    names = list(columns)
    if inputs is not None:
        names.insert(0 if contest.truth is None else 1, inputs.name)

    def picture(name: str, stem: str) -> Picture:
        if inputs is not None and name == inputs.name:
            try:
                return inputs.read(stem).picture  # of any size: it is shown, not measured
            except (PictureError, OSError) as error:
                print(f"faces.jpg shows no input of {stem}: {error}")
                return np.full((1, 1, 3), 128, np.uint8)
        return contest.read(columns[name], stem).picture

    entrants = [entrant.name for entrant in contest.entrants]
    shown = choose_faces(outcome.rows, entrants, outcome.faces)
    save(out / "faces.jpg", sheet(names, shown, picture))

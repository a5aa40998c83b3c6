"""Ablations: each part of the method changed alone, as DVC experiments, and one table of what that does.

python -m pipelines.ablate [NAME ...] [--seeds 0 1 2] [--list]

Starts from the project as it lies there and changes nothing of it but reports/ablations* (see
`pipelines.experiment`). Per seed the full method comes first, and the ablations start from what it made, so
that each computes only what it changes. What is done is not done again. The table holds all that is done of
these params, this code and these faces, named now or before, and what failed with its reason.
"""

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cfpp.config import Params, load_params
from cfpp.errors import MendableError
from cfpp.evaluation.ablations import FULL, Ablation, AblationError, Outcome, markdown, read_rows, tabulate
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.files import replacing
from cfpp.lineage import git_commit
from cfpp.models.external import find_external, why_missing
from cfpp.objectives.perceptual import LPIPS_FILES
from cfpp.progress import Bar, progress_bar
from pipelines.experiment import (
    FOLDER,
    Experiment,
    ExperimentError,
    alone,
    clear,
    copy_project,
    identity,
    made_from,
    overridden,
    run_experiment,
)

log = logging.getLogger("pipelines.ablate")

ABLATIONS = (
    Ablation(FULL, "the full method"),
    Ablation("no-dam", "no DAM", {"train_tgrn.alignment": "none"}),
    Ablation("no-tam", "no TAM", {"train_tgrn.texture_attention": False}),
    Ablation("spatial-attention", "TAM with a spatial map", {"train_tgrn.spatial_attention": True}),
    Ablation("no-metric", "no metric learning", {"train_tgrn.metric_weight": 0.0}),
    Ablation("negatives-id", "negatives: I_F", {"train_tgrn.negatives": ["id"]}),
    Ablation("negatives-gp", "negatives: I_G", {"train_tgrn.negatives": ["gp"]}),
    Ablation("negatives-id-gp", "negatives: I_F and I_G", {"train_tgrn.negatives": ["id", "gp"]}),
    Ablation("embedding-prior", "embedding: the prior's encoder", {"train_tgrn.embedding": "prior"}),
    Ablation("embedding-squeeze", "embedding: LPIPS's SqueezeNet", {"train_tgrn.embedding": "squeeze"}),
    Ablation("lncc-21", "LNCC window 21", {"train_dam.lncc_window": 21}),
    Ablation("no-integration", "no integration", {"train_dam.integration_steps": 0}),
    Ablation("integration-7", "integration in 7 steps", {"train_dam.integration_steps": 7}),
    Ablation("no-identity", "no identity loss", {"train_tgrn.identity_weight": 0.0}),
    Ablation("no-adversarial", "no adversarial loss", {"train_tgrn.adversarial_weight": 0.0}),
)
SEEDS = ("train_dam.train.seed", "train_tgrn.train.seed")
REPORTS = Path("reports")
RECORD, TABLE = "experiment.json", "per_image.csv"


@dataclass(frozen=True)
class Trial:
    """An ablation at a seed, and where its record lies."""

    ablation: Ablation
    seed: int
    params: Params
    identity: str

    @property
    def label(self) -> str:
        return f"{self.ablation.name}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return REPORTS / "ablations" / self.label

    @property
    def experiment(self) -> Experiment:
        seeds = dict.fromkeys(SEEDS, self.seed)
        return Experiment(f"{self.label}-{self.identity[:7]}", {**self.ablation.overrides, **seeds})

    def record(self, root: Path) -> dict[str, Any]:
        """What its run left, of these params, this code and these faces; {} where there is no such run."""
        try:
            found = json.loads((root / self.folder / RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("identity") == self.identity else {}

    def done(self, root: Path) -> bool:
        """Whether its result is there."""
        return self.record(root).get("failed") == "" and (root / self.folder / TABLE).is_file()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is named, all by default; returns 1 where one of these failed."""
    parser = argparse.ArgumentParser(description="Change one part of the method at a time, and compare.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="ablations; all of them if none is named")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of DAM's and TGRN's trainings")
    parser.add_argument("--list", action="store_true", help="show the ablations and what each changes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    if options.list:
        for ablation in ABLATIONS:
            changes = ", ".join(f"{key}={value}" for key, value in ablation.overrides.items())
            sys.stdout.write(f"{ablation.name:16} {ablation.title:24} {changes}\n")
        return 0
    signal.signal(signal.SIGTERM, _stop)
    try:
        ablations, seeds = choose(options.names), list(dict.fromkeys(options.seeds))
        table = ablate(Path.cwd(), ablations, seeds)
    except MendableError as error:
        raise SystemExit(f"ablate: {error}") from error
    return int(any(str(seed) in table[a.name]["failed"] for a in ablations for seed in seeds))


def choose(names: Sequence[str]) -> tuple[Ablation, ...]:
    """The ablations of these names, all if there are none, the full method first.

    Raises:
        AblationError: there is none of a name.
    """
    known = [ablation.name for ablation in ABLATIONS]
    for name in names:
        if name not in known:
            raise AblationError(f"{name}: no such ablation; there are: {', '.join(known)}")
    return tuple(ablation for ablation in ABLATIONS if not names or ablation.name in (FULL, *names))


def ablate(root: Path, ablations: Sequence[Ablation], seeds: Sequence[int]) -> dict[str, Any]:
    """Run what is not done of these, write the table of all that is recorded.

    Args:
        root: the project.
        ablations: of `ABLATIONS`, the full method first.
        seeds: each 0 or more.

    Returns:
        See `cfpp.evaluation.ablations.tabulate`.

    Raises:
        ParamsError: params.yaml, an override or a seed does not fit.
        ExternalFileError: a network in weights.root is not what its name says.
        ExperimentError: experiments cannot be run here; not: one of them failed.
    """
    root = root.resolve()
    with alone(root) as lock:
        places = Places(root)
        try:
            return _ablate(places, ablations, seeds, lock)
        finally:
            for folder in (places.branch, places.trunk, places.start):
                clear(folder)


@dataclass(frozen=True)
class Places:
    """The project and its copies: as it was at the start, the full method of a seed, an ablation."""

    root: Path

    @property
    def start(self) -> Path:
        return self.root / FOLDER / "start"

    @property
    def trunk(self) -> Path:
        return self.root / FOLDER / "full"

    @property
    def branch(self) -> Path:
        return self.root / FOLDER / "ablated"


def _ablate(places: Places, ablations: Sequence[Ablation], seeds: Sequence[int], lock: int) -> dict[str, Any]:
    params = load_params(places.root / "params.yaml")
    if params.storage.root:
        raise ExperimentError(
            f"storage.root: is {params.storage.root}, where experiments would overwrite the project's data; "
            f'ablate a project that has its data in its own folder (storage.root: "")'
        )
    void = {ablation.name: _void(ablation, places.root, params) for ablation in ABLATIONS}
    copy_project(places.root, places.start, places.root)
    trials = {
        seed: [_trial(places.start, ablation, seed) for ablation in ablations if not void[ablation.name]]
        for seed in seeds
    }
    waiting = {seed: [trial for trial in own if not trial.done(places.root)] for seed, own in trials.items()}
    with closing(progress_bar(sum(map(len, waiting.values())), "ablations", "experiment")) as bar:
        for seed, own in waiting.items():
            if own:
                _run_seed(places, trials[seed][0], own, lock, bar)
    outcomes = [_outcome(places, ablation, void[ablation.name]) for ablation in ABLATIONS]
    known = [o for o in outcomes if o.ablation.name == FULL or o.rows or o.failed or o.void]
    section = params.evaluate
    table = tabulate(known, Bootstrap(section.bootstrap, section.confidence, params.run.seed))
    _write(places.root, table)
    return table


def _run_seed(places: Places, full: Trial, waiting: Sequence[Trial], lock: int, bar: Bar) -> None:
    """Run the full method, done or not, then from what it made the others that wait; record what failed."""
    broken = _run(places.root, full, places.start, places.trunk, lock)
    for trial in waiting:
        if trial == full:
            reason = broken
        elif broken:
            reason = f"the full method failed: {broken}"
        else:
            reason = _run(places.root, trial, places.trunk, places.branch, lock)
        if reason:
            _record(places.root, trial, failed=reason)
        bar.update(1)


def _run(root: Path, trial: Trial, source: Path, folder: Path, lock: int) -> str:
    """Run a trial in `folder`, a copy of `source`, and keep its figures; returns why it failed, or ""."""
    log.info("%s: %s", trial.label, trial.experiment.overrides)
    start, kept = time.monotonic(), root / trial.folder
    try:
        copy_project(source, folder, root)
        run_experiment(folder, root, trial.experiment, kept / "log.txt", lock)
        (kept / RECORD).unlink(missing_ok=True)  # a kill from here on leaves no old record of new figures
        for name in (TABLE, "metrics.json"):
            with replacing(kept / name) as partial:
                partial.write_bytes((folder / REPORTS / name).read_bytes())
        facts = {"made_from": made_from(folder), "git_commit": git_commit(folder)}
        _record(root, trial, **facts, seconds=round(time.monotonic() - start, 1), failed="")
    except (MendableError, OSError) as error:
        log.error("%s: %s", trial.label, error)
        return str(error)
    return ""


def _record(root: Path, trial: Trial, **facts: Any) -> None:
    named = {"experiment": trial.experiment.name, "overrides": trial.experiment.overrides}
    with replacing(root / trial.folder / RECORD) as partial:
        text = json.dumps({**named, "identity": trial.identity, **facts}, indent=2, sort_keys=True)
        partial.write_text(text + "\n", encoding="utf-8")


def _outcome(places: Places, ablation: Ablation, void: str) -> Outcome:
    """All that is recorded of an ablation, of every seed."""
    rows, origins, failed = {}, {}, {}
    folders = () if void else (places.root / REPORTS / "ablations").glob(f"{ablation.name}-seed*")
    for seed in sorted(int(number) for f in folders if (number := f.name.rpartition("-seed")[2]).isdigit()):
        trial = _trial(places.start, ablation, seed)
        record = trial.record(places.root)
        if record.get("failed"):
            failed[seed] = record["failed"]
        elif record:
            try:
                rows[seed] = read_rows(places.root / trial.folder / TABLE)
                origins[seed] = record["made_from"]
            except AblationError as error:
                failed[seed] = str(error)
    return Outcome(ablation, rows, failed, void, origins)


def _trial(root: Path, ablation: Ablation, seed: int) -> Trial:
    params = overridden(root, {**ablation.overrides, **dict.fromkeys(SEEDS, seed)})
    return Trial(ablation, seed, params, identity(root, params))


def _void(ablation: Ablation, root: Path, params: Params) -> str:
    """Why there is nothing to run; "" if there is."""
    changed = overridden(root, ablation.overrides)
    if ablation.overrides and changed == params:
        return f"nothing to run, params.yaml has it already ({', '.join(ablation.overrides)})"
    backbone, weights = changed.train_tgrn.embedding, params.weights.root
    if backbone != "prior" and backbone != params.train_tgrn.embedding:
        files = LPIPS_FILES[backbone]
        if find_external(str(root / weights) if weights else "", files) is None:
            return f"cannot be run, {why_missing(weights, files)}"
    return ""


def _write(root: Path, table: dict[str, Any]) -> None:
    texts = {"json": json.dumps(table, indent=2, sort_keys=False) + "\n", "md": markdown(table)}
    for ending, text in texts.items():
        path = root / REPORTS / f"ablations.{ending}"
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
        log.info("%s", path)


def _stop(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

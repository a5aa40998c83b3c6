"""Ablations: each part of the method changed alone, as DVC experiments, and one table of what that does.

python -m pipelines.ablate [NAME ...] [--seeds 0 1 2] [--list]

Starts from the project as it lies there and changes nothing of it but reports/ablations* (see
`pipelines.experiment`). Per seed the full method comes first, and the ablations start from what it made, so
that each computes only what it changes. What is done is not done again; a table is written in any case, and
an experiment that failed stands in it with its reason.
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
from cfpp.progress import Bar, progress_bar
from pipelines.experiment import (
    FOLDER,
    Experiment,
    ExperimentError,
    alone,
    clear,
    copy_project,
    identity,
    overridden,
    run_experiment,
)

log = logging.getLogger("pipelines.ablate")

ABLATIONS = (
    Ablation(FULL, "the full method"),
    Ablation("no-dam", "no DAM", {"train_tgrn.alignment": "none"}),
    Ablation("no-tam", "no TAM", {"train_tgrn.texture_attention": False}),
    Ablation("no-metric", "no metric learning", {"train_tgrn.metric_weight": 0.0}),
    Ablation("negatives-id", "negatives: I_F", {"train_tgrn.negatives": ["id"]}),
    Ablation("negatives-id-gp", "negatives: I_F and I_G", {"train_tgrn.negatives": ["id", "gp"]}),
    Ablation("embedding-prior", "embedding: the prior's encoder", {"train_tgrn.embedding": "prior"}),
    Ablation("embedding-squeeze", "embedding: LPIPS's SqueezeNet", {"train_tgrn.embedding": "squeeze"}),
    Ablation("lncc-21", "LNCC window 21", {"train_dam.lncc_window": 21}),
    Ablation("no-integration", "no integration", {"train_dam.integration_steps": 0}),
    Ablation("no-adversarial", "no adversarial loss", {"train_tgrn.adversarial_weight": 0.0}),
)
SEEDS = ("train_dam.train.seed", "train_tgrn.train.seed")
REPORTS = Path("reports")
RECORD = "experiment.json"


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

    def done(self, root: Path) -> bool:
        """Whether its result is there, of these params, this code and these faces."""
        try:
            record = json.loads((root / self.folder / RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return bool(record["identity"] == self.identity)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is named, all by default; returns 1 where an experiment failed."""
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
        table = ablate(Path.cwd(), choose(options.names), list(dict.fromkeys(options.seeds)))
    except MendableError as error:
        raise SystemExit(f"ablate: {error}") from error
    return int(any(entry["failed"] for entry in table.values()))


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
    """Run what is not done, write the table.

    Args:
        root: the project.
        ablations: the full method first.
        seeds: each 0 or more.

    Returns:
        See `cfpp.evaluation.ablations.tabulate`.

    Raises:
        ParamsError: params.yaml, an override or a seed does not fit.
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
    void = {ablation.name: _void(ablation, places.root, params) for ablation in ablations}
    copy_project(places.root, places.start, places.root)
    trials = {
        seed: [_trial(places.start, ablation, seed) for ablation in ablations if not void[ablation.name]]
        for seed in seeds
    }
    failed: dict[str, dict[int, str]] = {ablation.name: {} for ablation in ablations}
    waiting = {seed: [trial for trial in own if not trial.done(places.root)] for seed, own in trials.items()}
    with closing(progress_bar(sum(map(len, waiting.values())), "ablations", "experiment")) as bar:
        for seed, own in waiting.items():
            if own:
                for name, reason in _run_seed(places, trials[seed][0], own, lock, bar).items():
                    failed[name][seed] = reason
    outcomes = []
    for ablation in ablations:
        done = [t for own in trials.values() for t in own if t.ablation == ablation and t.done(places.root)]
        rows = {t.seed: read_rows(places.root / t.folder / "per_image.csv") for t in done}
        outcomes.append(Outcome(ablation, rows, failed[ablation.name], void[ablation.name]))
    section = params.evaluate
    table = tabulate(outcomes, Bootstrap(section.bootstrap, section.confidence, params.run.seed))
    _write(places.root, table)
    return table


def _run_seed(places: Places, full: Trial, waiting: Sequence[Trial], lock: int, bar: Bar) -> dict[str, str]:
    """Run the full method, then from what it made the others that wait; names and reasons of what failed."""
    failed: dict[str, str] = {}
    copy_project(places.start, places.trunk, places.root)
    try:
        _run(places.root, full, places.trunk, lock)
    except ExperimentError as error:
        log.error("%s: %s", full.label, error)
        return {trial.ablation.name: f"the full method failed: {error}" for trial in (full, *waiting)}
    bar.update(int(full in waiting))
    for trial in waiting:
        if trial == full:
            continue
        copy_project(places.trunk, places.branch, places.root)
        try:
            _run(places.root, trial, places.branch, lock)
        except ExperimentError as error:
            log.error("%s: %s", trial.label, error)
            failed[trial.ablation.name] = str(error)
        bar.update(1)
    return failed


def _run(root: Path, trial: Trial, folder: Path, lock: int) -> None:
    """Run a trial in a copy of the project, and keep its figures as its record."""
    log.info("%s: %s", trial.label, trial.experiment.overrides)
    start, record = time.monotonic(), root / trial.folder
    (record / RECORD).unlink(missing_ok=True)
    run_experiment(folder, root, trial.experiment, record / "log.txt", lock)
    for name in ("per_image.csv", "metrics.json"):
        with replacing(record / name) as partial:
            partial.write_bytes((folder / REPORTS / name).read_bytes())
    facts = {
        "experiment": trial.experiment.name,
        "overrides": trial.experiment.overrides,
        "identity": trial.identity,
        "git_commit": git_commit(folder),
        "seconds": round(time.monotonic() - start, 1),
    }
    with replacing(record / RECORD) as partial:  # last: it says that the others are whole
        partial.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _trial(root: Path, ablation: Ablation, seed: int) -> Trial:
    params = overridden(root, {**ablation.overrides, **dict.fromkeys(SEEDS, seed)})
    return Trial(ablation, seed, params, identity(root, params))


def _void(ablation: Ablation, root: Path, params: Params) -> str:
    same = ablation.overrides and overridden(root, ablation.overrides) == params
    keys = ", ".join(ablation.overrides)
    return f"nothing to run, params.yaml has it already ({keys})" if same else ""


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

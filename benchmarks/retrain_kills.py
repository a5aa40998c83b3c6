"""SIGKILL at random moments of `retrain`, on the whole graph at its smallest: is the champion always valid?

    python -m benchmarks.retrain_kills [--kills 20] [--seed 0] [--folder DIR]

Twenty minutes and more. Of the kills some come at any time, some while the gate measures, some while the
champion is being changed; some hit the command alone, some every process that it started. After each one the
registry, the manifests and the command's own files are read; at last a start is left alone. Ends with 1 when
something was found wrong.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from cfpp.audit.verify import verify
from cfpp.config import Params, load_params
from cfpp.data.shards import DataError
from cfpp.profiles import apply_profile
from cfpp.registry.champions import Champions
from cfpp.registry.provenance import RegistryError, all_versions
from cfpp.registry.restorers import open_restorer
from pipelines.repro import marked
from pipelines.retrain_lock import LOCK, read
from pipelines.retrain_state import load
from tests.pipeline.project import REPOSITORY, Project

SMALLEST = REPOSITORY / "tests/pipeline/smallest.yaml"
# In the copy every challenger passes, so that every attempt ends with a promotion.
JUDGED = ("return not self.fault and low is not None and low > self.rule.margin", "return True")
FLOORS = "promote: {floors: []}\n"
ANY, GATE_STEP, ACT = "at any time", "in the gate", "in the promotion"
FIRST = 8  # kills at any time, in the run that makes everything
MOMENTS = (GATE_STEP, ANY, ACT)  # in turn after that
LONGEST = 90.0  # seconds until a kill at any time
# What verify may say of a project that was interrupted: everything else is damage.
UNFINISHED = (
    "half-written by a run that was killed",
    "no row of its manifest",
    "its manifest does not list it",
    "was made from another",
    "there is none, beside",
)


@dataclass
class Trial:
    """The project and what was found in it."""

    project: Project
    draw: random.Random
    wrong: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    most: int = 0  # dvc processes at a time

    @property
    def folder(self) -> Path:
        return self.project.folder

    def change(self) -> None:
        """Give the next attempt something to do: other weights, or another evaluation of the same."""
        self.rounds += 1
        name, key = ("seed", "train_tgrn") if self.rounds % 2 else ("bootstrap", "evaluate")
        value = self.rounds if name == "seed" else 200 + self.rounds
        section = f"train: {{seed: {value}}}" if name == "seed" else f"bootstrap: {value}"
        profile = self.folder / "change.yaml"
        profile.write_text(f"{key}: {{{section}}}\n")
        apply_profile(profile, self.folder / "params.yaml")
        profile.unlink()

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        with (self.folder.parent / "console.log").open("ab") as log:
            return subprocess.Popen(
                ["python", "-m", "pipelines.retrain", *words],
                cwd=self.folder,
                env=self.project.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_one(self, number: int) -> None:
        """Start, kill once, look."""
        moment = ANY if number < FIRST else MOMENTS[(number - FIRST) % len(MOMENTS)]
        acting = self.folder / ".cfpp/champions.owner"
        acting.unlink(missing_ok=True)  # of an act that was killed
        process, begun = self.start("--now"), time.monotonic()
        if moment == ANY:
            self._wait(process, lambda: False, self.draw.uniform(0.5, LONGEST))
        elif moment == GATE_STEP:
            self._wait(process, lambda: self._step() == "gate", 3600)
            self._wait(process, lambda: False, self.draw.uniform(0, 20))
        else:
            self._wait(process, acting.exists, 3600)
            time.sleep(self.draw.uniform(0, 0.4))
        if process.poll() is not None:
            if process.returncode not in (0, -9):
                self.wrong.append(f"a start ended with {process.returncode}")
            print(f"  a start ended by itself after {time.monotonic() - begun:.0f} s: {process.returncode}")
            self.change()
            return self.kill_one(number)
        everything = self.draw.random() < 0.4
        step = self._step()
        for each in marked(self.folder) if everything else []:
            with suppress(psutil.Error):
                each.kill()
        process.kill()
        process.wait()
        self.kills[moment] += 1
        self.steps[step] += 1
        whom = "everything" if everything else "the command"
        seconds = time.monotonic() - begun
        champion = self.look()
        print(f"kill {number + 1}: {whom} {moment}, at {step}, after {seconds:.0f} s; {champion}", flush=True)
        return None

    def look(self) -> str:
        """Read everything that others read; returns what the champion is."""
        params = load_params(self.folder / "params.yaml")
        load(self.folder)
        read(self.folder / LOCK)
        try:
            findings = verify(self.folder, params.prior).findings
        except DataError:
            findings = []  # nothing there yet
        self.wrong += [line for line in findings if not any(text in line for text in UNFINISHED)]
        try:
            champions = Champions.open(params.mlflow, self.folder)
        except RegistryError:
            return "no version yet"
        reign = champions.reign()
        outside = [act for act in reign.settled.acts if act.kind == "outside"]
        if outside:
            self.wrong.append(f"the history does not know of champion {reign.champion}")
        return self._open(params, reign.champion) if reign.champion else "no champion yet"

    def _open(self, params: Params, number: str) -> str:
        opened = open_restorer(f"models:/{params.mlflow.model_name}@champion", params.mlflow, self.folder)
        size = opened.restorer.size
        faces = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        assert opened.restorer.restore(faces).shape == faces.shape
        assert opened.version is not None
        if opened.version.number != number:
            self.wrong.append(f"the champion is {number}, but {opened.version.number} was opened")
        return f"champion {number} restores"

    def end(self) -> None:
        """A start that is left alone, and what must hold then."""
        begun = time.monotonic()
        code = self.start().wait() if load(self.folder).attempt else self.start("--now").wait()
        print(f"left alone: exit code {code} after {time.monotonic() - begun:.0f} s; {self.look()}")
        params, state = load_params(self.folder / "params.yaml"), load(self.folder)
        findings = verify(self.folder, params.prior).findings
        champions = Champions.open(params.mlflow, self.folder)
        reign, versions = champions.reign(), all_versions(champions.store, champions.name)
        for version in versions:
            for alias in version.aliases:
                open_restorer(alias, params.mlflow, self.folder)
        done = [act for act in reign.settled.acts if act.state == "done"]
        running = self.project.sql("select name from runs where status = 'RUNNING'")
        expected = {
            "exit code 0": code == 0,
            "no attempt is left": state.attempt is None and state.finished is not None,
            "cfpp verify is clean": not findings,
            "the champion is the last one's version": bool(state.finished)
            and state.finished.version == reign.champion == done[-1].after,
            "every act is concluded": all(act.state != "begun" for act in reign.acts),
            "no process is left": not marked(self.folder),
            "never two dvc at a time": self.most <= 1,
            "no MLflow run is open": not running,
        }
        self.wrong += [f"not so: {name}" for name, holds in expected.items() if not holds] + findings
        promotions = sum(act.kind == "promote" for act in done)
        aliases = {alias: version.number for version in versions for alias in version.aliases}
        print(f"{len(versions)} versions, {promotions} promotions on record, aliases {aliases}")
        print(f"{self.rounds + 1} attempts; at most {self.most} dvc at a time; runs still open: {running}")

    def watch(self, over: threading.Event) -> None:
        """Count the dvc processes of the project."""
        while not over.wait(0.5):
            count = 0
            for process in marked(self.folder):
                with suppress(psutil.Error):
                    count += process.cmdline()[1:3] == ["-m", "dvc"]
            self.most = max(self.most, count)

    def _wait(self, process: "subprocess.Popen[bytes]", condition: object, seconds: float) -> None:
        assert callable(condition)
        deadline = time.monotonic() + seconds
        while process.poll() is None and not condition() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _step(self) -> str:
        attempt = load(self.folder).attempt
        if attempt is None:
            return "the beginning"
        if attempt.step != "repro":
            return attempt.step
        log = self.folder / ".cfpp" / f"retrain-{attempt.id}.log"
        stages = re.findall(r"Running stage '(\w+)'", log.read_text(errors="replace")) if log.exists() else []
        return stages[-1] if stages else attempt.step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="a new folder for the project, which is kept")
    options = parser.parse_args()
    parent = options.folder or Path(tempfile.mkdtemp(prefix="retrain-kills-"))
    (parent / "project").mkdir(parents=True)
    project = Project(parent / "project")
    gate = project.folder / "cfpp/evaluation/gate.py"
    assert JUDGED[0] in gate.read_text()
    gate.write_text(gate.read_text().replace(*JUDGED))
    (parent / "profile.yaml").write_text(SMALLEST.read_text() + FLOORS)
    apply_profile(parent / "profile.yaml", project.folder / "params.yaml")
    trial = Trial(project, random.Random(options.seed))
    over = threading.Event()
    watcher = threading.Thread(target=trial.watch, args=(over,), daemon=True)
    watcher.start()
    begun = time.monotonic()
    for number in range(options.kills):
        trial.kill_one(number)
    trial.end()
    over.set()
    print(f"{sum(trial.kills.values())} kills in {time.monotonic() - begun:.0f} s: {dict(trial.kills)}; "
          f"by step: {dict(trial.steps)}")  # fmt: skip
    for line in trial.wrong:
        print(f"WRONG: {line}")
    return int(bool(trial.wrong))


if __name__ == "__main__":
    sys.exit(main())

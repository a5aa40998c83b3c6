"""What `retrain` remembers from one start to the next: `.cfpp/retrain.json`, replaced whole at each step."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cfpp.errors import MendableError
from cfpp.files import replacing
from pipelines.host import Process

STATE = Path(".cfpp/retrain.json")
STEPS = ("data", "repro", "gate", "report")


class StateError(MendableError, ValueError):
    """The state file cannot be read."""


@dataclass(frozen=True)
class Step:
    """A step that has ended: its name and how long it took, over all starts, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """A retraining that was triggered, up to where it has come.

    Attributes:
        trigger: why it was begun.
        started: seconds since the epoch.
        step: the one of `STEPS` that is at work or comes next.
        steps: those that have ended.
        starts: how many times the command was started for it.
        version: registered by the graph, once it ran through.
        manifest: sha256 of the data/shards/manifest.parquet that the graph was run with; "" before.
        decision: of the gate, once it decided.
        table: of the gate, as text.
        record: of the gate.
        error: where the last start stopped; "" when it did not.
    """

    id: str
    trigger: str
    started: float
    step: str = STEPS[0]
    steps: tuple[Step, ...] = ()
    starts: int = 0
    version: str = ""
    manifest: str = ""
    decision: str = ""
    table: str = ""
    record: dict[str, Any] | None = None
    error: str = ""

    def done(self, seconds: float, **facts: Any) -> "Attempt":
        """After its current step."""
        before = sum(step.seconds for step in self.steps if step.name == self.step)
        others = tuple(step for step in self.steps if step.name != self.step)
        following = STEPS[min(STEPS.index(self.step) + 1, len(STEPS) - 1)]
        steps = (*others, Step(self.step, before + seconds))
        return replace(self, step=following, steps=steps, error="", **facts)

    def stopped(self, seconds: float, error: str) -> "Attempt":
        """After a failure of its current step, at which the next start goes on."""
        steps = self.done(seconds).steps
        return replace(self, steps=steps, error=error)


@dataclass(frozen=True)
class Finished:
    """The last attempt that came to its end.

    Attributes:
        at: seconds since the epoch.
        manifest: the attempt's.
    """

    id: str
    at: float
    manifest: str
    version: str
    decision: str


@dataclass(frozen=True)
class Child:
    """The `dvc repro` that a start has started, and the machine it runs on."""

    host: str
    process: Process
    log: str


@dataclass(frozen=True)
class State:
    """All of it."""

    attempt: Attempt | None = None
    finished: Finished | None = None
    child: Child | None = None

    def finish(self) -> "State":
        """After the last step of the attempt."""
        attempt = self.attempt
        assert attempt is not None
        version, decision = attempt.version, attempt.decision
        return State(finished=Finished(attempt.id, time.time(), attempt.manifest, version, decision))


def load(root: Path) -> State:
    """The state last saved; an empty one when there is none.

    Raises:
        StateError: it is no state.
    """
    path = root / STATE
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        attempt, finished, child = tree["attempt"], tree["finished"], tree["child"]
        if attempt:
            steps = tuple(Step(**step) for step in attempt["steps"])
            attempt = Attempt(**(attempt | {"steps": steps}))
        if child:
            child = Child(**(child | {"process": Process(**child["process"])}))
        return State(attempt, Finished(**finished) if finished else None, child)
    except FileNotFoundError:
        return State()
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path}: cannot be read ({error}); remove it and run with --now") from None


def save(state: State, root: Path) -> None:
    with replacing(root / STATE) as partial:
        partial.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")

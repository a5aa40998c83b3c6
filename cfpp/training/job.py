"""What is to be trained, on what, and under which name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cfpp.config import TrainParams
from cfpp.data.fingerprint import fingerprint
from cfpp.errors import MendableError
from cfpp.models.weights import Card
from cfpp.objectives.base import Batch, ObjectiveSpec
from cfpp.training.curves import Row

# What acts on the weights, whatever is trained: the steps, and the batches.
TRAINING_CODE = ("cfpp.training.trainer", "cfpp.training.faces")


class TrainingError(MendableError, RuntimeError):
    """A run cannot start or go on; the message names the phase, the step and what to do."""


class BatchSource(Protocol):
    """Batches as a function of the step; picklable."""

    def batch(self, step: int, part: int) -> Batch:
        """Part ``part`` of the global batch of the 0-based ``step``."""
        ...

    def __len__(self) -> int:
        """Number of items in the split."""
        ...


class DataSpec(Protocol):
    """Picklable description of the data; opened inside the worker."""

    def open(
        self, spec: ObjectiveSpec, split: str, *, batch_size: int, parts: int, seed: int
    ) -> BatchSource | None:
        """A split (train or val), whose batches of ``batch_size`` fall into ``parts`` equal parts.

        Parts share no item, and their union does not depend on ``parts``: that makes a run of two workers,
        and a run of one worker that accumulates twice, see the same batches. None: the split is empty.
        """
        ...


@dataclass(frozen=True)
class Export:
    """Where a phase's averaged weights go when it ends, for the next phase to start from.

    Attributes:
        folder: absolute; visible to every worker.
        card: its steps and metrics are filled in by the engine.
    """

    folder: str
    card: Card


@dataclass(frozen=True)
class TrainJob:
    """One phase of a run.

    Attributes:
        name: of the phase, for logs and curves.
        spec: builds the objective inside the worker.
        params: steps, batch size, rates, ...
        data: where batches come from.
        seed: of weights and sample order.
        export: see `Export`; None where nothing starts from this phase.
    """

    name: str
    spec: ObjectiveSpec
    params: TrainParams
    data: DataSpec
    seed: int
    export: Export | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives.

    Attributes:
        weights: averaged weights of the last phase, float32, on the CPU.
        metrics: last held-out figures of every phase (prefixed by its name if there are several).
        curves: every logged row.
        steps: steps of the last phase.
        run: name of the run.
        folder: where its checkpoints are.
        images_per_second: mean over what this process trained; None if there was nothing left to train.
    """

    weights: dict[str, Tensor]
    metrics: dict[str, float]
    curves: list[Row] = field(repr=False)
    steps: int
    run: str = ""
    folder: str = ""
    images_per_second: float | None = None


def run_name(stage: str, specs: Sequence[type[ObjectiveSpec]], *parts: Any) -> str:
    """Stage and a hash of what decides the weights: the given parts, and the code of objectives and trainer.

    The same name means the same run: a killed one goes on, a finished one is not trained again. Any change of
    params, data or code gives a new name, so a fresh run needs no name of its own.
    """
    code = [*(spec.__module__ for spec in specs), *TRAINING_CODE]
    return f"{stage}-{fingerprint(stage, *parts, code=code)[:12]}"


def phase_prefix(jobs: Sequence[TrainJob], index: int) -> str:
    """What the figures of a phase are prefixed with: its name, if it is not the only one."""
    return f"{jobs[index].name}/" if len(jobs) > 1 else ""


def curve_path(storage: str, name: str) -> Path | None:
    """The live curves of a run in local storage; None where the storage is not a file system."""
    return None if "://" in storage else Path(storage, name, "curves.csv")

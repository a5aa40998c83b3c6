"""What is to be trained, on what, and under which name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cfpp.data.fingerprint import fingerprint
from cfpp.errors import MendableError
from cfpp.objectives.base import Batch, ObjectiveSpec
from cfpp.training.curves import Row
from cfpp.training_params import TrainParams

# What acts on the weights, whatever is trained: the steps, the batches, and which worker gets which.
TRAINING_CODE = ("cfpp.training.trainer", "cfpp.training.faces", "cfpp.training.prefetch")


class TrainingError(MendableError, RuntimeError):
    """A run cannot start or go on; the message names the run, the step and what to do."""


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
class TrainJob:
    """One training run.

    Attributes:
        name: of what is trained, for logs and messages.
        spec: builds the objective inside the worker.
        params: steps, batch size, rates, ...
        data: where batches come from.
        seed: of weights and sample order.
        prefix: of its figures, where several runs share one set of curves.
        first_step: where its figures begin in the sink: the steps of the runs before it. Curves count their
            own steps.
    """

    name: str
    spec: ObjectiveSpec
    params: TrainParams
    data: DataSpec
    seed: int
    prefix: str = ""
    first_step: int = 0


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives.

    Attributes:
        weights: averaged weights, float32, on the CPU.
        metrics: last held-out figures, prefixed.
        curves: every logged row.
        steps: optimiser steps behind the weights.
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


def training_seed(run_seed: int, seed: int) -> int:
    """The seed of a training: that of the run itself where ``seed`` is 0, else one that both decide.

    Args:
        run_seed: `run.seed`, 0 or more.
        seed: `train.seed` of what is trained, 0 or more.
    """
    if seed == 0:
        return run_seed
    return int.from_bytes(hashlib.sha256(f"{run_seed} training {seed}".encode()).digest()[:6])


def run_name(stage: str, spec: type[ObjectiveSpec], *parts: Any) -> str:
    """Stage and a hash of what decides the weights: the given parts, and the code of objective and trainer.

    The same name means the same run: a killed one goes on, a finished one is not trained again. Any change of
    params, data or code gives a new name, so a fresh run needs no name of its own.
    """
    return f"{stage}-{fingerprint(stage, *parts, code=[spec.__module__, *TRAINING_CODE])[:12]}"


def curve_path(storage: str, name: str) -> Path | None:
    """The live curves of a run in local storage; None where the storage is not a file system."""
    return None if "://" in storage else Path(storage, name, "curves.csv")

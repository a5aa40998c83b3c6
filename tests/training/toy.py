"""Objectives and data that train in milliseconds; a module of its own so that workers can import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cfpp.objectives.base import Batch, Objective, ObjectiveSpec, StepResult
from cfpp.training import engine
from cfpp.training.checkpoint import FolderCheckpoints
from cfpp.training.job import TrainJob, TrainResult
from cfpp.training_params import TrainParams

PARAMS = TrainParams(
    steps=12,
    seed=0,
    batch_size=4,
    accumulate=1,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    milestones=(),
    betas=(0.9, 0.99),
    ema_decay=0.9,
    precision="fp32",
    channels_last=False,
    workers=1,
    use_gpu=False,
    threads=1,
    loader_workers=0,
    log_every=3,
    validate_every=6,
    checkpoint_every=5,
    keep=2,
    max_failures=1,
)


class InterruptedRunError(Exception):
    """Stands for whatever ends a run early."""


@dataclass(frozen=True)
class Pictures:
    """Random pictures that depend on (split, seed, place) alone; `places` says which a batch took."""

    stop_at: int | None = None

    def open(
        self, spec: ObjectiveSpec, split: str, *, batch_size: int, parts: int, seed: int
    ) -> PictureBatches | None:
        return PictureBatches(split, batch_size, parts, seed, self.stop_at if split == "train" else None)


@dataclass(frozen=True)
class PictureBatches:
    split: str
    batch_size: int
    parts: int
    seed: int
    stop_at: int | None

    def batch(self, step: int, part: int) -> dict[str, Any]:
        if step == self.stop_at:
            raise InterruptedRunError
        places = range(step * self.batch_size + part, (step + 1) * self.batch_size, self.parts)
        drawn = [np.random.default_rng([self.seed, len(self.split), p]).random((3, 8, 8)) for p in places]
        return {"hq": torch.from_numpy(np.stack(drawn)).float() * 2 - 1, "key": [str(p) for p in places]}

    def __len__(self) -> int:
        return 40


class Painter(nn.Module):
    """Two ways to the picture; the second is used only when asked for. A buffer counts the forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 3, 1)
        self.extra = nn.Conv2d(4, 3, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, picture: Tensor, extra: bool = False) -> Tensor:
        if self.training:
            self.get_buffer("seen").add_(1)
        features = torch.tanh(self.body(picture))
        painted: Tensor = self.head(features) + (self.extra(features) if extra else 0)
        return painted


@dataclass(frozen=True)
class PaintSpec:
    """Paint the picture's negative.

    Attributes:
        extra_every: use the second head in one step of this many (0: never).
        noise: of the input, from torch's generator.
        discriminator_start: None: no discriminator.
        poison_at: the step at which the loss is not a number.
        kill: (step, marker file, awaited file): the process kills itself there, once, when the awaited file
            is there.
        seconds: a step takes at least so long.
    """

    extra_every: int = 0
    noise: float = 0.0
    discriminator_start: int | None = None
    poison_at: int | None = None
    kill: tuple[int, str, str] | None = None
    seconds: float = 0.0

    kind = "painter"
    columns: ClassVar[tuple[str, ...]] = ("hq",)

    @property
    def config(self) -> dict[str, Any]:
        return {}

    def build(self) -> PaintObjective:
        return PaintObjective(self)


class PaintObjective(Objective):
    def __init__(self, spec: PaintSpec) -> None:
        super().__init__()
        self.spec = spec
        self.model: nn.Module = Painter()
        self.frozen = nn.Dropout(0.5)  # in train mode it would make the losses random
        if spec.discriminator_start is not None:
            self.discriminator = nn.Conv2d(3, 1, 4)
            self.discriminator_start = spec.discriminator_start

    def step(self, batch: Batch, step: int) -> StepResult:
        if self.spec.kill is not None and step == self.spec.kill[0] and not Path(self.spec.kill[1]).exists():
            Path(self.spec.kill[1]).touch()
            while not Path(self.spec.kill[2]).exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.spec.seconds)
        hq: Tensor = batch["hq"]
        extra = bool(self.spec.extra_every) and step % self.spec.extra_every == 0
        fake = self.model(hq + self.spec.noise * torch.randn_like(hq), extra)
        loss = (self.frozen(fake) + hq).square().mean()
        if step == self.spec.poison_at:
            loss = loss * float("nan")
        logs = {"mean": fake.detach().mean()}
        if self.discriminator is not None and step >= self.discriminator_start:
            adversarial = -self.discriminator(fake).mean()
            loss, logs["adversarial"] = loss + 0.1 * adversarial, adversarial.detach()
        return StepResult(loss=loss, logs=logs, fake=fake, real=hq)

    def validate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert not model.training
        return {"error": (model(batch["hq"]) + batch["hq"]).square().mean()}

    def pictures(self, model: nn.Module, batch: Batch) -> Tensor:
        out: Tensor = model(batch["hq"])[0]
        return out


class Record:
    """A sink that remembers, and can be its own spec within one process."""

    def __init__(self) -> None:
        self.figures: list[tuple[int, dict[str, float]]] = []
        self.images: list[tuple[int, str, tuple[int, ...]]] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.figures.append((step, metrics))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self.images.append((step, name, picture.shape))


def run(folder: Path, job: TrainJob, sink: Record | None = None, **options: Any) -> TrainResult:
    """The pure engine on checkpoints in ``folder``."""
    store = FolderCheckpoints(folder / "checkpoints", job.params.keep)
    options = {"curve_file": folder / "curves.csv", **options}
    return engine.run(job, checkpoints=store, sink=sink or Record(), **options)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bitwise."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def job(name: str = "toy", spec: PaintSpec | None = None, **options: Any) -> TrainJob:
    """A toy job; ``options`` are fields of `TrainJob`."""
    fields = {"params": PARAMS, "data": Pictures(), "seed": 0, **options}
    return TrainJob(name=name, spec=spec or PaintSpec(), **fields)


def columns(rows: Sequence[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]

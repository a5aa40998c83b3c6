"""The one training loop: fixed steps, logs, validation, checkpoints. It runs without Ray."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from cfpp.errors import MendableError
from cfpp.progress import Bar
from cfpp.training.checkpoint import CheckpointStore, State, checkpoint_name
from cfpp.training.curves import Curves
from cfpp.training.gradients import mean_over_workers
from cfpp.training.job import BatchSource, TrainingError, TrainJob, TrainResult
from cfpp.training.prefetch import MicroBatches, Placement, micro_batches
from cfpp.training.schedule import learning_rate
from cfpp.training.sinks import MetricSink, as_picture
from cfpp.training.trainer import Trainer

log = logging.getLogger(__name__)

VALIDATION_BATCHES = 12


class _Window:
    """Figures since the last logged row. They stay on the device until the row is due: one transfer a row."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, dict[str, Tensor]]] = []
        self.started = time.perf_counter()

    def close(self, world: int) -> tuple[dict[str, float], int | None, float]:
        """Means by name over steps and workers, the first step whose loss is not finite, and the seconds."""
        values = torch.stack([value.float() for _, entry in self.entries for value in entry.values()])
        numbers = iter(mean_over_workers(values, world).tolist())
        columns: dict[str, list[float]] = {}
        broken: int | None = None
        for step, entry in self.entries:
            for name in entry:
                number = next(numbers)
                columns.setdefault(name, []).append(number)
                if name in ("loss", "discriminator") and not math.isfinite(number) and broken is None:
                    broken = step
        self.entries = []
        means = {name: math.fsum(column) / len(column) for name, column in columns.items()}
        return means, broken, time.perf_counter() - self.started

    def restart(self) -> None:
        self.started = time.perf_counter()


class _Run:
    """One job under way: trainer, curves, last held-out figures, throughput, last checkpoint."""

    def __init__(
        self,
        job: TrainJob,
        checkpoints: CheckpointStore,
        sink: MetricSink,
        device: torch.device,
        rank: int,
        world: int,
        curve_file: Path | None,
        bar: Callable[..., Bar],
    ) -> None:
        self.job, self.checkpoints, self.sink, self.bar = job, checkpoints, sink, bar
        self.rank, self.world = rank, world
        self.place = Placement(device, job.params.channels_last)
        torch.set_num_threads(job.params.threads)
        with _setting_up(job):
            self.trainer = Trainer(job, device, rank, world)
        state = checkpoints.load()
        if state is not None:
            self.trainer.restore(state)
            log.info("resuming %s at step %d", job.name, state["step"])
        self.start: int = state["step"] if state else 0
        self.last = checkpoint_name(self.start) if state else "none yet"
        self.curves = Curves(curve_file if rank == 0 else None, state["curves"] if state else [])
        self.metrics: dict[str, float] = dict(state["metrics"]) if state else {}
        self.images, self.seconds = 0, 0.0

    def train(self) -> None:
        """The steps that are left."""
        job, params = self.job, self.job.params
        if self.start >= params.steps:
            return
        parts = self.world * params.accumulate
        with _setting_up(job):
            source = job.data.open(
                job.spec, "train", batch_size=params.batch_size, parts=parts, seed=job.seed
            )
            held_out = self._held_out(parts) if self.rank == 0 else None
        if source is None or len(source) == 0:
            raise TrainingError(f"{job.name}: the train split is empty; run the stages before this one")
        feed = MicroBatches(source, self.rank, params.accumulate)
        first, stop = self.start * params.accumulate, params.steps * params.accumulate
        batches = micro_batches(feed, first, stop, self.place, params.loader_workers)
        bar = self.bar(total=params.steps, desc=job.name) if self.rank == 0 else None
        window = _Window()
        try:
            if bar is not None:
                bar.update(self.start)
            for step in range(self.start, params.steps):
                window.entries += [(step, entry) for entry in self.trainer.step(batches, step)]
                done = step + 1
                if bar is not None:
                    bar.update(1)
                saving = done % params.checkpoint_every == 0 or done == params.steps
                validating = done % params.validate_every == 0 or done == params.steps
                if not (saving or validating or done % params.log_every == 0):
                    continue
                figures, throughput = self._close(window, step)
                if validating and held_out is not None:
                    figures |= self._validate(done, held_out)
                self._log(done, figures, throughput)
                if bar is not None:
                    bar.set_description(f"{job.name} loss {figures['loss']:.4g}")
                if saving:
                    self._save(done)
                window.restart()
        finally:
            batches.close()
            if bar is not None:
                bar.close()

    def _held_out(self, parts: int) -> BatchSource | None:
        job = self.job
        size = job.params.batch_size // parts
        source = job.data.open(job.spec, "val", batch_size=size, parts=1, seed=job.seed)
        if source is None or len(source) == 0:
            log.warning("%s: the val split is empty, nothing is validated", job.name)
            return None
        return source

    def _close(self, window: _Window, step: int) -> tuple[dict[str, float], float]:
        params = self.job.params
        images = len(window.entries) * params.batch_size // params.accumulate
        figures, broken, seconds = window.close(self.world)
        if broken is not None:
            raise TrainingError(
                f"{self.job.name}: the loss is not a finite number at step {broken}; last good checkpoint: "
                f"{self.last}. Lower the learning rate, or train in fp32 if precision is bf16."
            )
        self.images += images
        self.seconds += seconds
        return {"learning_rate": learning_rate(params, step), **figures}, images / seconds

    @torch.no_grad()
    def _validate(self, done: int, held_out: BatchSource) -> dict[str, float]:
        job, params, objective = self.job, self.job.params, self.trainer.objective
        size = params.batch_size // (self.world * params.accumulate)
        count = max(1, min(VALIDATION_BATCHES, len(held_out) // size))
        model, found = self.trainer.ema.module, []
        for number in range(count):
            batch = self.place(held_out.batch(number, 0))
            with self.trainer.autocast():
                found.append(objective.validate(model, batch))
                if number == 0:
                    picture = objective.pictures(model, batch)
                    if picture is not None:
                        self.sink.image(job.first_step + done, f"{job.prefix}val", as_picture(picture))
        figures = objective.summarise(found)
        self.metrics |= {job.prefix + name: value for name, value in figures.items()}
        return {f"val/{name}": value for name, value in figures.items()}

    def _log(self, done: int, figures: dict[str, float], throughput: float) -> None:
        if self.rank != 0:
            return
        job = self.job
        row = {job.prefix + name: value for name, value in figures.items()}
        self.curves.add(done, row)
        self.sink.log(job.first_step + done, {**row, f"{job.prefix}images_per_second": throughput})

    def _save(self, done: int) -> None:
        if not self.trainer.finite():
            raise TrainingError(
                f"{self.job.name}: a weight is not a finite number after step {done - 1}; "
                f"last good checkpoint: {self.last}"
            )
        state: State | None = None
        if self.rank == 0:
            position = {"step": done, "curves": self.curves.rows, "metrics": self.metrics}
            state = {**position, **self.trainer.state()}
        name = checkpoint_name(done)
        self.checkpoints.save(state, name, self.metrics)
        self.last = name


@contextmanager
def _setting_up(job: TrainJob) -> Iterator[None]:
    """What is wrong with params, data or weights is wrong on every worker and at every try."""
    try:
        yield
    except MendableError as error:
        raise TrainingError(f"{job.name}: {error}") from error


def run(
    job: TrainJob,
    *,
    checkpoints: CheckpointStore,
    sink: MetricSink,
    device: torch.device | None = None,
    rank: int = 0,
    world: int = 1,
    curve_file: Path | None = None,
    bar: Callable[..., Bar] = tqdm,
) -> TrainResult:
    """Train, going on from the newest checkpoint if there is one.

    On the CPU the same job gives the same weights, bit for bit, whether or not the run was interrupted.

    Args:
        job: what is trained, on what.
        checkpoints: where the state is kept.
        sink: takes rank 0's figures and pictures.
        device: of the networks; the CPU if None.
        rank, world: this worker and how many there are; above 1, torch.distributed must be initialised.
        curve_file: CSV that rank 0 mirrors the curves to.
        bar: makes rank 0's progress bar, called as ``bar(total=steps, desc=name)``.

    Returns:
        The same on every rank, but for the figures, which rank 0 has.

    Raises:
        TrainingError: a loss or weight is not finite, or there is nothing to train on.
    """
    threads = torch.get_num_threads()
    device = device or torch.device("cpu")
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            under_way = _Run(job, checkpoints, sink, device, rank, world, curve_file, bar)
            under_way.train()
    finally:
        torch.set_num_threads(threads)
    return TrainResult(
        weights=under_way.trainer.weights(),
        metrics=under_way.metrics,
        curves=under_way.curves.rows,
        steps=job.params.steps,
        images_per_second=under_way.images / under_way.seconds if under_way.images else None,
    )

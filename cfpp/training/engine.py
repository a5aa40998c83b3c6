"""The one training loop: fixed steps, logs, validation, checkpoints, phases. It runs without Ray."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from cfpp.errors import MendableError
from cfpp.models.weights import save_model
from cfpp.training.checkpoint import CheckpointStore, State, checkpoint_name
from cfpp.training.curves import Curves
from cfpp.training.gradients import mean_over_workers
from cfpp.training.job import BatchSource, TrainingError, TrainJob, TrainResult, phase_prefix
from cfpp.training.prefetch import MicroBatches, Placement, micro_batches
from cfpp.training.progress import Bar
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
    """The state that phases share: curves, last held-out figures, throughput, last checkpoint."""

    def __init__(
        self,
        jobs: Sequence[TrainJob],
        checkpoints: CheckpointStore,
        sink: MetricSink,
        device: torch.device,
        rank: int,
        world: int,
        curve_file: Path | None,
        bar: Callable[..., Bar],
    ) -> None:
        self.jobs, self.checkpoints, self.sink, self.bar = jobs, checkpoints, sink, bar
        self.device, self.rank, self.world = device, rank, world
        self.resumed = checkpoints.load()
        state = self.resumed or {"phase": 0, "step": 0, "curves": [], "metrics": {}}
        self.phase: int = state["phase"]
        self.last = checkpoint_name(state["phase"], state["step"]) if self.resumed else "none yet"
        self.curves = Curves(curve_file if rank == 0 else None, state["curves"])
        self.metrics: dict[str, float] = dict(state["metrics"])
        self.images, self.seconds = 0, 0.0
        if self.resumed:
            log.info("resuming %s at step %d", jobs[self.phase].name, state["step"])

    def train(self, index: int) -> Trainer:
        """One phase, from its beginning or from the checkpoint that is in it."""
        job, params = self.jobs[index], self.jobs[index].params
        torch.set_num_threads(params.threads)
        with _setting_up(job):
            trainer = Trainer(job, self.device, self.rank, self.world)
        start = 0
        if self.resumed is not None and self.resumed["phase"] == index:
            trainer.restore(self.resumed)
            start, self.resumed = self.resumed["step"], None
        if start < params.steps:
            self._steps(index, trainer, start)
        self._export(job, index, trainer)
        return trainer

    def _steps(self, index: int, trainer: Trainer, start: int) -> None:
        job, params = self.jobs[index], self.jobs[index].params
        place = Placement(self.device, params.channels_last)
        parts = self.world * params.accumulate
        with _setting_up(job):
            source = job.data.open(
                job.spec, "train", batch_size=params.batch_size, parts=parts, seed=job.seed
            )
            held_out = self._held_out(job, parts) if self.rank == 0 else None
        if source is None or len(source) == 0:
            raise TrainingError(f"{job.name}: the train split is empty; run the stages before this one")
        feed = MicroBatches(source, self.rank, params.accumulate)
        batches = micro_batches(
            feed, start * params.accumulate, params.steps * params.accumulate, place, params.loader_workers
        )
        bar = self.bar(total=params.steps, desc=job.name) if self.rank == 0 else None
        window = _Window()
        try:
            if bar is not None:
                bar.update(start)
            for step in range(start, params.steps):
                window.entries += [(step, entry) for entry in trainer.step(batches, step)]
                done = step + 1
                if bar is not None:
                    bar.update(1)
                saving = done % params.checkpoint_every == 0 or done == params.steps
                validating = done % params.validate_every == 0 or done == params.steps
                if not (saving or validating or done % params.log_every == 0):
                    continue
                figures, throughput = self._close(job, trainer, window, step)
                if validating and held_out is not None:
                    figures |= self._validate(index, done, trainer, held_out, place)
                self._log(index, done, figures, throughput)
                if bar is not None:
                    bar.set_description(f"{job.name} loss {figures['loss']:.4g}")
                if saving:
                    self._save(index, done, trainer)
                window.restart()
        finally:
            batches.close()
            if bar is not None:
                bar.close()

    def _held_out(self, job: TrainJob, parts: int) -> BatchSource | None:
        size = job.params.batch_size // parts
        source = job.data.open(job.spec, "val", batch_size=size, parts=1, seed=job.seed)
        if source is None or len(source) == 0:
            log.warning("%s: the val split is empty, nothing is validated", job.name)
            return None
        return source

    def _close(
        self, job: TrainJob, trainer: Trainer, window: _Window, step: int
    ) -> tuple[dict[str, float], float]:
        images = len(window.entries) * job.params.batch_size // job.params.accumulate
        figures, broken, seconds = window.close(self.world)
        if broken is not None:
            raise TrainingError(
                f"{job.name}: the loss is not a finite number at step {broken}; last good checkpoint: "
                f"{self.last}. Lower the learning rate, or train in fp32 if precision is bf16."
            )
        self.images += images
        self.seconds += seconds
        return {"learning_rate": learning_rate(job.params, step), **figures}, images / seconds

    @torch.no_grad()
    def _validate(
        self, index: int, done: int, trainer: Trainer, held_out: BatchSource, place: Placement
    ) -> dict[str, float]:
        prefix, params = phase_prefix(self.jobs, index), trainer.job.params
        size = params.batch_size // (self.world * params.accumulate)
        count = max(1, min(VALIDATION_BATCHES, len(held_out) // size))
        model, found = trainer.ema.module, []
        for number in range(count):
            batch = place(held_out.batch(number, 0))
            with trainer.autocast():
                found.append(trainer.objective.validate(model, batch))
                if number == 0:
                    picture = trainer.objective.pictures(model, batch)
                    if picture is not None:
                        self.sink.image(self._offset(index) + done, f"{prefix}val", as_picture(picture))
        figures = {
            name: float(torch.stack([entry[name].float() for entry in found]).mean()) for name in found[0]
        }
        self.metrics |= {prefix + name: value for name, value in figures.items()}
        return {f"val/{name}": value for name, value in figures.items()}

    def _offset(self, index: int) -> int:
        return sum(job.params.steps for job in self.jobs[:index])

    def _log(self, index: int, done: int, figures: dict[str, float], throughput: float) -> None:
        if self.rank != 0:
            return
        step, prefix = self._offset(index) + done, phase_prefix(self.jobs, index)
        row = {prefix + name: value for name, value in figures.items()}
        self.curves.add(step, row)
        self.sink.log(step, {**row, f"{prefix}images_per_second": throughput})

    def _save(self, index: int, done: int, trainer: Trainer) -> None:
        if not trainer.finite():
            raise TrainingError(
                f"{self.jobs[index].name}: a weight is not a finite number after step {done - 1}; "
                f"last good checkpoint: {self.last}"
            )
        state: State | None = None
        if self.rank == 0:
            position = {"phase": index, "step": done, "curves": self.curves.rows, "metrics": self.metrics}
            state = {**position, **trainer.state()}
        name = checkpoint_name(index, done)
        self.checkpoints.save(state, name, self.metrics)
        self.last = name

    def _export(self, job: TrainJob, index: int, trainer: Trainer) -> None:
        if job.export is None:
            return
        if self.rank == 0:
            prefix = phase_prefix(self.jobs, index)
            own = {k.removeprefix(prefix): v for k, v in self.metrics.items() if k.startswith(prefix)}
            card = dataclasses.replace(job.export.card, steps=job.params.steps, metrics=own)
            save_model(job.export.folder, trainer.weights(), card)
        if self.world > 1:
            dist.barrier()  # the next phase reads it on every worker


@contextmanager
def _setting_up(job: TrainJob) -> Iterator[None]:
    """What is wrong with params, data or weights is wrong on every worker and at every try."""
    try:
        yield
    except MendableError as error:
        raise TrainingError(f"{job.name}: {error}") from error


def run(
    jobs: Sequence[TrainJob],
    *,
    checkpoints: CheckpointStore,
    sink: MetricSink,
    device: torch.device | None = None,
    rank: int = 0,
    world: int = 1,
    curve_file: Path | None = None,
    bar: Callable[..., Bar] = tqdm,
) -> TrainResult:
    """Train the phases one after the other, going on from the newest checkpoint if there is one.

    On the CPU the same jobs give the same weights, bit for bit, whether or not the run was interrupted.

    Args:
        jobs: the phases, at least one.
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
            shared = _Run(jobs, checkpoints, sink, device, rank, world, curve_file, bar)
            for index in range(shared.phase, len(jobs)):
                trainer = shared.train(index)
    finally:
        torch.set_num_threads(threads)
    return TrainResult(
        weights=trainer.weights(),
        metrics=shared.metrics,
        curves=shared.curves.rows,
        steps=jobs[-1].params.steps,
        images_per_second=shared.images / shared.seconds if shared.images else None,
    )

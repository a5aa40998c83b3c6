"""Training steps of DAM and TGRN: images per second, and where the time of a step goes.

    python -m benchmarks.train                             # as params.yaml has it
    python -m benchmarks.train --profile ffhq512 --steps 100 --warm 30

The step is the engine's own (`Trainer`), fed by its own loader from shards on the disk: procedural faces,
whose files are about as large as photographs', and stand-ins for the restorations. Networks are untrained:
speed does not depend on weights. The variants take turns; each turn opens its loader anew and warms up before
it is timed: with many loader processes, long enough for what they have read ahead to settle.

A step's time is split as the engine's code is. `data` is the wait for the next batch; `forward` the losses of
the trained network, with the discriminator's view of its output and the two gradients behind the adaptive
weight; `backward` the gradients of those losses; `discriminator` its own loss, forward and backward;
`optimiser` both optimisers and the averaged weights. On a GPU by events in its own queue, which hold nothing
up: while it still computes, a host that waits for data costs nothing and is not counted. Copies of batches to
the GPU run in the same queue, whenever the reading thread asks for them: their time falls into the phase then
computed, mostly forward and backward, and not into data. The discriminator takes part from the first step on,
as it does in most of a training.

The last variant is set against the others. On a GPU those are two: `fp32, TF32 convolutions`, PyTorch's own
default, to which the last adds bf16 and channels_last alone, and `fp32`, which lacks TF32 as well.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.reading import samples, write_project
from cfpp.config import Params, load_params
from cfpp.data.procedural import render
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import network_config
from cfpp.models.weights import Card, save_model
from cfpp.objectives.alignment import AlignmentSpec
from cfpp.objectives.base import Batch, ObjectiveSpec
from cfpp.objectives.perceptual import perceptual_name
from cfpp.objectives.texture import TextureSpec
from cfpp.profiles import apply_profile
from cfpp.training.faces import StoredFaces
from cfpp.training.job import TrainJob
from cfpp.training.prefetch import AHEAD, MicroBatches, Placement, micro_batches
from cfpp.training.trainer import Trainer
from cfpp.training_params import LATENT_SIDE, TrainParams
from pipelines.prior import EMBEDDED
from pipelines.training import absolute

REPOSITORY = Path(__file__).resolve().parents[1]
FACES = 24  # each is read as it is and mirrored
PHASES = ("data", "forward", "backward", "discriminator", "optimiser")
MODELS = ("dam", "tgrn")


@dataclass(frozen=True)
class Variant:
    """How the steps compute.

    Attributes:
        tf32: whether float32 convolutions may round to TF32, as PyTorch lets them on a GPU unless told.
    """

    name: str
    precision: str
    channels_last: bool
    tf32: bool


PLAIN = Variant("fp32", "fp32", False, False)
TF32 = Variant("fp32, TF32 convolutions", "fp32", False, True)
FAST = Variant("bf16, channels last", "bf16", True, True)


@dataclass(frozen=True)
class Turn:
    """Seconds of a turn's steps, by phase, and the images they took."""

    seconds: dict[str, float]
    images: int

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / sum(self.seconds.values())

    def share(self, phase: str) -> float:
        """Of the time."""
        return self.seconds[phase] / sum(self.seconds.values())


class Stopwatch:
    """Laps by name. On a GPU each is an event in its queue, so that taking one holds nothing up."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: list[tuple[str, Any]] = []

    def lap(self, name: str) -> None:
        """What was done since the last lap is called so."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.laps.append((name, event))
        else:
            self.laps.append((name, time.perf_counter()))

    @property
    def last(self) -> str:
        return self.laps[-1][0]

    def seconds(self) -> dict[str, float]:
        """Total by name since the first lap, which only starts the watch."""
        totals: dict[str, float] = defaultdict(float)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        for (_, before), (name, after) in zip(self.laps, self.laps[1:], strict=False):
            on_gpu = self.device.type == "cuda"
            totals[name] += before.elapsed_time(after) / 1e3 if on_gpu else after - before
        return totals


class TimedTrainer(Trainer):
    """The engine's trainer with a lap at each of its borders."""

    def __init__(self, job: TrainJob, device: torch.device) -> None:
        super().__init__(job, device, 0, 1)
        self.watch = Stopwatch(device)
        compute = self.objective.step

        def step(batch: Batch, number: int) -> Any:
            result = compute(batch, number)
            self.watch.lap("forward")
            return result

        self.objective.step = step  # type: ignore[method-assign]

    def step(self, batches: Iterator[Batch], step: int) -> Any:
        figures = super().step(self._timed(batches), step)
        self.watch.lap("optimiser")
        return figures

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.watch.lap("data")
            yield batch

    def _judge(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        self.watch.lap("backward")
        loss = super()._judge(real, fake)
        self.watch.lap("discriminator")
        return loss

    def _update(self, *args: Any) -> None:
        # The generator's update follows its backward pass, or the discriminator's step.
        self.watch.lap("backward" if self.watch.last == "forward" else "optimiser")
        super()._update(*args)


@dataclass(frozen=True)
class Bench:
    """What is timed: trainers by variant, over one store of faces.

    Attributes:
        section: its `steps` are those of a turn, of which the first `warm` are not timed.
    """

    spec: ObjectiveSpec
    section: TrainParams
    root: Path
    device: torch.device
    warm: int

    def job(self, variant: Variant) -> TrainJob:
        params = replace(self.section, precision=variant.precision, channels_last=variant.channels_last)
        return TrainJob(self.spec.kind, self.spec, params, StoredFaces(str(self.root), flip=True), seed=0)

    def turn(self, trainer: TimedTrainer, variant: Variant) -> Turn:
        """Time the steps of one turn, on batches of its own loader."""
        torch.backends.cudnn.allow_tf32 = variant.tf32
        job, params = trainer.job, trainer.job.params
        source = job.data.open(job.spec, "train", batch_size=params.batch_size, parts=1, seed=0)
        assert source is not None
        place = Placement(self.device, params.channels_last)
        feed = MicroBatches(source, 0, 1)
        with closing(micro_batches(feed, 0, params.steps, place, params.loader_workers)) as batches:
            for step in range(params.steps):
                if step == self.warm:
                    trainer.watch = Stopwatch(self.device)
                    trainer.watch.lap("start")
                trainer.step(batches, step)
            seconds = trainer.watch.seconds()
        images = (params.steps - self.warm) * params.batch_size
        return Turn({phase: seconds.get(phase, 0.0) for phase in PHASES}, images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", help="of profiles/, applied to params.yaml as it is committed or edited")
    parser.add_argument("--model", choices=(*MODELS, "all"), default="all")
    parser.add_argument("--size", type=int, help="side of the faces, pixels; default: run.size")
    parser.add_argument("--batch", type=int, help="faces per step; default: a worker's share of batch_size")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a turn")
    parser.add_argument("--warm", type=int, default=3, help="steps before them")
    parser.add_argument("--runs", type=int, default=3, help="turns of each variant")
    parser.add_argument("--loader-workers", type=int, help="default: as in params.yaml")
    options = parser.parse_args()
    if min(options.steps, options.runs) < 1 or options.warm < 1:
        parser.error("--steps, --warm and --runs must be 1 or more")
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="cfpp-train-") as name:
            root = Path(name)
            params = read_params(root, options.profile)
            models = MODELS if options.model == "all" else (options.model,)
            sections = {model: section_of(model, params, options) for model in models}
            size = options.size or params.run.size
            faces = [render(0, person, 0, size).picture for person in range(FACES)]
            write_project(root, samples(faces, params), params.data.shard_size)
            for model, section in sections.items():
                measure(spec_of(model, params, size, root), section, root, options)
    finally:
        torch.set_num_threads(threads)


def read_params(folder: Path, profile: str | None) -> Params:
    """params.yaml, with a profile where one is named; the file itself is left alone."""
    path = Path(shutil.copy(REPOSITORY / "params.yaml", folder))
    if profile:
        apply_profile(REPOSITORY / "profiles" / f"{profile}.yaml", path)
    return load_params(path)


def section_of(model: str, params: Params, options: argparse.Namespace) -> TrainParams:
    """The model's training section for one turn.

    Raises:
        SystemExit: all timed batches could be read before the timing starts.
    """
    given = (params.train_tgrn if model == "tgrn" else params.train_dam).train
    batch = options.batch or given.batch_size // (given.workers * given.accumulate)
    workers = given.loader_workers if options.loader_workers is None else options.loader_workers
    ahead = AHEAD * (workers + 1) + 1  # by each loader process; in the queue; and one that waits for room
    if options.steps <= ahead:
        raise SystemExit(
            f"{model}: {ahead} batches are read ahead, all that {options.steps} timed steps take: no wait "
            f"for data would be seen; give --steps {ahead + 1} or more"
        )
    steps = options.warm + options.steps
    return replace(given, steps=steps, batch_size=batch, workers=1, accumulate=1, loader_workers=workers)


def measure(
    spec: AlignmentSpec | TextureSpec, section: TrainParams, root: Path, options: argparse.Namespace
) -> None:
    """Time one model's variants in turns, and print its table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(section.threads)
    bench = Bench(spec, section, root, device, options.warm)
    variants = (PLAIN, TF32, FAST) if device.type == "cuda" else (PLAIN, FAST)
    trainers = {variant: TimedTrainer(bench.job(variant), device) for variant in variants}
    turns: dict[Variant, list[Turn]] = {variant: [] for variant in variants}
    for _ in range(options.runs):
        for variant, trainer in trainers.items():
            turns[variant].append(bench.turn(trainer, variant))
            # A table that a time limit cuts off has still shown its turns.
            print(f"{spec.kind}, {variant.name}: {turns[variant][-1].rate:.1f} images/s", flush=True)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {section.threads} threads"
    print(
        f"\n{title(spec, section)}, {where}, torch {torch.__version__}; "
        f"medians of {options.runs} turns of {options.steps} steps\n"
    )
    print(f"| variant | images/s | {' | '.join(PHASES)} |\n|{'---|' * (2 + len(PHASES))}")
    for variant, own in turns.items():
        print(f"| {variant.name} | {rate(own):.1f} | {' | '.join(shares(own))} |")
    for variant in variants[:-1]:
        print(f"{FAST.name}: {rate(turns[FAST]) / rate(turns[variant]):.2f} times {variant.name}", flush=True)


def title(spec: AlignmentSpec | TextureSpec, section: TrainParams) -> str:
    """What is trained, and how it is fed."""
    workers = section.loader_workers
    parts = [f"{spec.kind} at {spec.size}", f"batch {section.batch_size}"]
    parts.append(f"{workers} loader processes" if workers else "loader in a thread")
    if isinstance(spec, TextureSpec):
        parts.append(f"perceptual loss {perceptual_name(spec.weights_root)}")
        parts.append(f"identity loss {spec.identity_name}")
    return ", ".join(parts)


def rate(turns: Sequence[Turn]) -> float:
    """Median images per second."""
    return statistics.median(turn.rate for turn in turns)


def shares(turns: Sequence[Turn]) -> list[str]:
    """Median share of each phase."""
    return [f"{statistics.median(turn.share(phase) for turn in turns):.1%}" for phase in PHASES]


def spec_of(model: str, params: Params, size: int, root: Path) -> AlignmentSpec | TextureSpec:
    """The stage's own objective, its discriminator from the first step on."""
    if model == "dam":
        return AlignmentSpec(params.train_dam, size)
    network = absolute(REPOSITORY, params.train_tgrn.identity_network)
    return TextureSpec(
        params=replace(params.train_tgrn, discriminator_start=0, identity_network=network),
        size=size,
        prior_path=str(prior_of(params, root)),
        weights_root=absolute(REPOSITORY, params.weights.root),
        procedural=params.data.source == "procedural",
        feather=params.pair.feather,
    )


def prior_of(params: Params, root: Path) -> Path:
    """The prior whose encoder embeds textures: the embedded one, or one of the params' network, untrained."""
    if params.prior.source == "embedded":
        return EMBEDDED
    folder, network = root / "prior", params.prior.network
    if not folder.exists():
        size = LATENT_SIDE << (len(network.multipliers) - 1)  # its encoder takes pictures of any size
        card = Card(kind="codeformer", config=network_config(network, size), steps=1)
        save_model(folder, CodeFormer(network, size), card)
    return folder


if __name__ == "__main__":
    main()

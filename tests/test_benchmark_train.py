"""The training benchmark: its timed step is the engine's, and its time adds up."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import train
from benchmarks.train import FAST, PHASES, PLAIN, TF32, Bench, Stopwatch, TimedTrainer, Variant
from cfpp.config import load_params
from cfpp.objectives.perceptual import perceptual_name
from cfpp.training.job import TrainJob
from cfpp.training.prefetch import MicroBatches, Placement, micro_batches
from cfpp.training.schedule import learning_rate
from cfpp.training.trainer import Trainer
from tests.training.toy import PARAMS, PaintSpec, Pictures

CPU = torch.device("cpu")


def job(discriminator_start: int | None) -> TrainJob:
    return TrainJob(
        "toy", PaintSpec(discriminator_start=discriminator_start), replace(PARAMS, steps=4), Pictures(), 0
    )


@pytest.mark.parametrize("discriminator_start", [None, 0, 2])
def test_a_timed_step_trains_as_the_engine_does(discriminator_start: int | None) -> None:
    one = job(discriminator_start)
    source = one.data.open(one.spec, "train", batch_size=4, parts=1, seed=0)
    weights = []
    for trainer in (Trainer(one, CPU, 0, 1), TimedTrainer(one, CPU)):
        batches = micro_batches(MicroBatches(source, 0, 1), 0, 4, Placement(CPU, False), 0)
        for step in range(4):
            trainer.step(batches, step)
        batches.close()
        weights.append(trainer.weights())
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    laps = [name for name, _ in trainer.watch.laps]
    assert set(laps) <= set(PHASES)
    assert laps.count("data") == laps.count("forward") == 4
    judged = 0 if discriminator_start is None else 4 - discriminator_start
    assert laps.count("discriminator") == judged
    # Behind each forward comes its backward, and nothing else is called so.
    behind = [laps[place + 1] for place, name in enumerate(laps) if name == "forward"]
    assert behind == ["backward"] * 4
    assert laps.count("backward") == 4


def test_the_phases_add_up_to_the_time_and_waiting_for_data_counts_as_that() -> None:
    slow = job(0)

    class Late(Pictures):
        def open(self, *args, **options):
            batches = super().open(*args, **options)
            read = type(batches).batch

            class LateBatches(type(batches)):
                def batch(self, step, part):
                    time.sleep(0.1)
                    return read(self, step, part)

            return LateBatches(**vars(batches))

    slow = replace(slow, data=Late(), params=replace(slow.params, steps=8))
    bench = Bench(slow.spec, slow.params, root=None, device=CPU, warm=4)
    trainer = TimedTrainer(slow, CPU)
    start = time.perf_counter()
    turn = bench.turn(trainer, PLAIN)
    assert turn.images == 16
    assert sum(turn.seconds.values()) < time.perf_counter() - start
    assert turn.seconds["data"] > 0.1  # of about 4 times that: the machine may be busy
    assert sum(turn.share(phase) for phase in PHASES) == pytest.approx(1)
    assert turn.rate == pytest.approx(16 / sum(turn.seconds.values()))


def test_a_stopwatch_adds_up_its_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 3.5, 3.75])
    monkeypatch.setattr("benchmarks.train.time.perf_counter", lambda: next(times))
    watch = Stopwatch(CPU)
    for name in ("start", "data", "forward", "data"):
        watch.lap(name)
    assert watch.seconds() == {"data": 0.75, "forward": 2.0}


def test_a_stopwatch_of_a_gpu_reads_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        recorded = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            Event.recorded += 1
            self.at = 250.0 * Event.recorded**2  # milliseconds

        def elapsed_time(self, later: "Event") -> float:
            return later.at - self.at

    waited = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    watch = Stopwatch(torch.device("cuda"))
    for name in ("start", "data", "forward", "data"):
        watch.lap(name)
    assert watch.seconds() == {"data": 0.75 + 1.75, "forward": 1.25}
    assert waited


def test_the_warm_up_is_not_timed() -> None:
    one = job(0)
    bench = Bench(one.spec, one.params, root=None, device=CPU, warm=3)
    trainer = TimedTrainer(one, CPU)
    turn = bench.turn(trainer, PLAIN)
    laps = [name for name, _ in trainer.watch.laps]
    assert laps.count("start") == laps.count("forward") == laps.count("data") == 1
    assert turn.images == 4


@pytest.mark.parametrize(
    ("variant", "precision", "channels_last", "tf32"),
    [(PLAIN, "fp32", False, False), (TF32, "fp32", False, True), (FAST, "bf16", True, True)],
)
def test_a_variant_computes_as_its_name_says(
    variant: Variant, precision: str, channels_last: bool, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    one = job(0)
    bench = Bench(one.spec, one.params, root=Path("nowhere"), device=CPU, warm=1)
    params = bench.job(variant).params
    assert (params.precision, params.channels_last) == (precision, channels_last)
    assert replace(params, precision="fp32", channels_last=False) == one.params

    trainer = TimedTrainer(replace(bench.job(variant), data=Pictures()), CPU)
    seen = []
    trainer.model.head.register_forward_hook(lambda _, inputs, out: seen.append((out.dtype, inputs[0])))
    bench.turn(trainer, variant)
    assert {dtype for dtype, _ in seen} == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert seen[0][1].is_contiguous(memory_format=torch.channels_last) == channels_last
    assert torch.backends.cudnn.allow_tf32 == tf32


def options(**given: int) -> SimpleNamespace:
    return SimpleNamespace(**{"steps": 10, "warm": 3, "batch": None, "loader_workers": 0} | given)


@pytest.mark.parametrize("model", train.MODELS)
def test_the_rate_falls_to_the_end_of_a_turn(model: str) -> None:
    section = train.section_of(model, load_params(train.REPOSITORY / "params.yaml"), options())
    assert section.steps == 13
    section = replace(section, milestones=())
    rates = [learning_rate(section, step) for step in range(13)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("workers", "ahead"), [(0, 4), (1, 7), (4, 16)])
def test_a_run_whose_data_are_read_before_it_is_timed_is_refused(
    workers: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(train.REPOSITORY / "params.yaml")
    section = train.section_of("dam", params, options(steps=ahead + 1, loader_workers=workers))
    assert (section.steps, section.loader_workers) == (ahead + 4, workers)
    monkeypatch.setattr(train, "render", lambda *_: pytest.fail("too late"))
    command = ["train", "--model", "tgrn", "--steps", str(ahead), "--loader-workers", str(workers)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(
        SystemExit, match=rf"tgrn: {ahead} batches are read ahead.*--steps {ahead + 1} or more"
    ):
        train.main()


def test_networks_are_the_project_s_from_any_folder_and_the_title_names_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = load_params(train.REPOSITORY / "params.yaml")
    network = "shared/embedder.onnx"
    tgrn = replace(params.train_tgrn, identity_weight=0.5, identity_network=network)
    params = replace(params, train_tgrn=tgrn, weights=replace(params.weights, root="weights"))
    spec = train.spec_of("tgrn", params, 64, tmp_path)
    assert spec.params.identity_network == str(train.REPOSITORY / network)
    assert spec.weights_root == str(train.REPOSITORY / "weights")
    section = train.section_of("tgrn", params, options(batch=2))
    network_free = replace(spec.params, identity_network="")
    probe = replace(spec, params=network_free, procedural=True, weights_root="")
    assert train.title(probe, section) == (
        f"tgrn at 64, batch 2, loader in a thread, perceptual loss {perceptual_name('')}, identity loss probe"
    )
    dam = train.spec_of("dam", params, 64, tmp_path)
    assert train.title(dam, section) == "dam at 64, batch 2, loader in a thread"

"""The training benchmark: its timed step is the engine's, and its time adds up."""

import time
from dataclasses import replace

import pytest
import torch

from benchmarks.train import PHASES, PLAIN, Bench, Stopwatch, TimedTrainer
from cfpp.training.job import TrainJob
from cfpp.training.prefetch import MicroBatches, Placement, micro_batches
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
                    time.sleep(0.05)
                    return read(self, step, part)

            return LateBatches(**vars(batches))

    slow = replace(slow, data=Late())
    bench = Bench(slow.spec, slow.params, root=None, device=CPU, warm=4)
    trainer = TimedTrainer(slow, CPU)
    start = time.perf_counter()
    turn = bench.turn(trainer, PLAIN)
    assert turn.images == 16
    assert sum(turn.seconds.values()) < time.perf_counter() - start
    assert turn.seconds["data"] > 3 * 0.04
    assert sum(turn.share(phase) for phase in PHASES) == pytest.approx(1)
    assert turn.rate == pytest.approx(16 / sum(turn.seconds.values()))


def test_a_stopwatch_adds_up_its_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 3.5, 3.75])
    monkeypatch.setattr("benchmarks.train.time.perf_counter", lambda: next(times))
    watch = Stopwatch(CPU)
    for name in ("start", "data", "forward", "data"):
        watch.lap(name)
    assert watch.seconds() == {"data": 0.75, "forward": 2.0}

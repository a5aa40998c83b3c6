"""The loop: it trains, resumes bit for bit, and says what is wrong."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cfpp.training.curves import columns_of
from cfpp.training.job import TrainingError
from cfpp.training.trainer import Trainer

from .toy import PARAMS, InterruptedRunError, PaintSpec, Pictures, Record, columns, job, run, same

CPU = torch.device("cpu")


def test_it_learns_and_reports(tmp_path: Path) -> None:
    sink, long = Record(), replace(PARAMS, steps=150, log_every=10, validate_every=50, checkpoint_every=50)
    result = run(tmp_path, job(params=long), sink=sink)
    losses = columns(result.curves, "loss")
    assert len(losses) == 15
    assert losses[-1] < 0.3 * losses[0]
    assert result.metrics["error"] == columns(result.curves, "val/error")[-1]
    assert result.metrics["error"] < 0.3 * losses[0]
    assert [step for step, _, _ in sink.images] == [50, 100, 150]
    assert sink.images[0][1:] == ("val", (8, 8, 3))
    assert sink.figures[-1][1]["images_per_second"] > 0
    assert "images_per_second" not in columns_of(result.curves)
    with (tmp_path / "curves.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(10, 151, 10))


def test_the_logged_loss_is_the_mean_of_its_window(tmp_path: Path) -> None:
    each = run(tmp_path / "a", job(params=replace(PARAMS, log_every=1)))
    windows = run(
        tmp_path / "b", job(params=replace(PARAMS, log_every=4, checkpoint_every=12, validate_every=12))
    )
    losses = columns(each.curves, "loss")
    assert columns(windows.curves, "loss") == pytest.approx([sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)])


@pytest.mark.parametrize("stop_at", [4, 5, 7, 11])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    spec = PaintSpec(extra_every=3, noise=0.1, discriminator_start=4)
    whole = run(tmp_path / "whole", job(spec=spec))
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "broken", job(spec=spec, data=Pictures(stop_at=stop_at)))
    torch.manual_seed(99)  # the caller's generator is no part of it
    resumed = run(tmp_path / "broken", job(spec=spec))
    assert same(whole.weights, resumed.weights)
    assert whole.curves == resumed.curves
    assert (tmp_path / "whole" / "curves.csv").read_text() == (tmp_path / "broken" / "curves.csv").read_text()
    again = run(tmp_path / "broken", job(spec=spec))
    assert same(whole.weights, again.weights)
    assert again.images_per_second is None


def test_bf16_channels_last_resumes_in_the_same_bits(tmp_path: Path) -> None:
    params = replace(PARAMS, precision="bf16", channels_last=True)
    whole = run(tmp_path / "whole", job(params=params))
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "broken", job(params=params, data=Pictures(stop_at=8)))
    assert same(whole.weights, run(tmp_path / "broken", job(params=params)).weights)
    assert not same(whole.weights, run(tmp_path / "fp32", job()).weights)
    assert all(value.dtype == torch.float32 for value in whole.weights.values())


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    alone = run(tmp_path / "a", job())
    helped = run(tmp_path / "b", job(params=replace(PARAMS, loader_workers=1)))
    assert same(alone.weights, helped.weights)


def test_accumulating_gives_the_weights_of_the_whole_batch(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", job())
    parts = run(tmp_path / "b", job(params=replace(PARAMS, accumulate=4)))
    for key in whole.weights:
        if key != "seen":
            torch.testing.assert_close(whole.weights[key], parts.weights[key], rtol=1e-4, atol=1e-6)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    assert same(run(tmp_path / "a", job()).weights, run(tmp_path / "b", job()).weights)
    assert not same(run(tmp_path / "a2", job(seed=1)).weights, run(tmp_path / "b", job()).weights)


def test_the_discriminator_starts_at_its_step_and_has_only_its_own_gradients() -> None:
    trainer = Trainer(job(spec=PaintSpec(discriminator_start=3)), CPU, 0, 1)
    source = Pictures().open(PaintSpec(), "train", batch_size=4, parts=1, seed=0)
    assert source is not None
    assert trainer.discriminator is not None
    batches = (source.batch(step, 0) for step in range(9))
    untouched = {key: value.clone() for key, value in trainer.discriminator.state_dict().items()}
    for step in range(3):
        (figures,) = trainer.step(batches, step)
        assert "discriminator" not in figures
    assert same(untouched, trainer.discriminator.state_dict())
    (figures,) = trainer.step(batches, 3)
    assert {"discriminator", "adversarial"} <= figures.keys()
    # At initialisation-sized logits the hinge is active everywhere: its gradient with respect to the bias is
    # -0.5 + 0.5 = 0. The generator's own loss would have left -0.1 there.
    after = trainer.discriminator.state_dict()
    assert after["bias"].equal(untouched["bias"])
    assert not after["weight"].equal(untouched["weight"])


def test_figures_of_runs_in_a_row_share_one_axis(tmp_path: Path) -> None:
    alone, sink = run(tmp_path / "alone", job()), Record()
    later = run(tmp_path / "later", job(prefix="second/", first_step=100), sink=sink)
    assert same(alone.weights, later.weights)
    assert [row["step"] for row in later.curves] == [row["step"] for row in alone.curves]
    assert [step - 100 for step, _ in sink.figures] == [row["step"] for row in alone.curves]
    assert columns(later.curves, "second/loss") == columns(alone.curves, "loss")
    assert later.metrics == {f"second/{name}": value for name, value in alone.metrics.items()}
    assert [(step, name) for step, name, _ in sink.images] == [(106, "second/val"), (112, "second/val")]


def test_a_loss_that_is_not_a_number_is_named_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"toy: .* step 7; last good checkpoint: step00000005"):
        run(tmp_path, job(spec=PaintSpec(poison_at=7)))
    assert [path.stem for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step00000005"]

"""LNCC and smoothness against VoxelMorph's numbers and plain loops; the objective finds a displacement."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpp.config import load_params
from cfpp.models.dam import folded_share, warp
from cfpp.objectives.alignment import (
    AlignmentSpec,
    folding_loss,
    lncc_loss,
    luminance,
    smoothness_loss,
)
from cfpp.training_params import TrainDamParams

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(scope="module")
def params() -> TrainDamParams:
    return load_params(PARAMS).train_dam


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "codeformer/parity/voxelmorph_ops.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


@pytest.mark.parametrize("window", [9, 5])
def test_lncc_and_its_gradient_equal_voxelmorphs(reference: dict[str, Tensor], window: int) -> None:
    moving = reference["in/J"].clone().requires_grad_(True)
    loss = lncc_loss(reference["in/I"], moving, window)
    loss.backward()
    torch.testing.assert_close(loss.detach(), reference[f"out/ncc_win{window}"], atol=1e-5, rtol=1e-4)
    # Sums of squares minus squares of sums: the last digits depend on the order of summation.
    expected = reference[f"out/ncc_win{window}_grad_J"]
    torch.testing.assert_close(moving.grad, expected, atol=1e-5, rtol=1e-4)


def test_lncc_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    i, j = rng.random((2, 11, 12))
    half, total = 2, 0.0
    for row in range(11):
        for column in range(12):
            a, b = np.zeros((5, 5)), np.zeros((5, 5))
            for dy in range(-half, half + 1):
                for dx in range(-half, half + 1):
                    y, x = row + dy, column + dx
                    if 0 <= y < 11 and 0 <= x < 12:
                        a[dy + half, dx + half], b[dy + half, dx + half] = i[y, x], j[y, x]
            a, b = a - a.mean(), b - b.mean()
            total += (a * b).sum() ** 2 / ((a * a).sum() * (b * b).sum() + 1e-5)
    fixed, moving = (torch.from_numpy(x)[None, None] for x in (i, j))
    assert lncc_loss(fixed, moving, 5).item() == pytest.approx(-total / (11 * 12), abs=1e-9)


def test_lncc_of_weighted_pixels_is_that_of_their_places() -> None:
    torch.manual_seed(0)
    fixed, moving = torch.rand(2, 1, 1, 16, 20).double().unbind()
    alone = torch.zeros(16, 20, dtype=torch.double)
    each = []
    for row, column in ((3, 4), (8, 19)):
        alone.zero_()[row, column] = 5.0
        each.append(lncc_loss(fixed, moving, 5, alone).item())
    both = torch.zeros(16, 20, dtype=torch.double)
    both[3, 4], both[8, 19] = 3.0, 1.0
    assert lncc_loss(fixed, moving, 5, both).item() == pytest.approx(0.75 * each[0] + 0.25 * each[1])
    even = lncc_loss(fixed, moving, 5, torch.full((16, 20), 7.0)).item()
    assert even == pytest.approx(lncc_loss(fixed, moving, 5).item())
    assert abs(each[0] - each[1]) > 0.01


def test_lncc_ignores_local_contrast_and_is_unharmed_by_autocast() -> None:
    torch.manual_seed(0)
    fixed = torch.rand(1, 1, 32, 32)
    assert lncc_loss(fixed, 0.5 * fixed, 9).item() == pytest.approx(-1, abs=1e-3)
    assert lncc_loss(fixed, torch.rand(1, 1, 32, 32), 9) > -0.2
    plain = lncc_loss(fixed, fixed.roll(1, 3), 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lncc_loss(fixed, fixed.roll(1, 3), 9), plain)


def test_smoothness_equals_voxelmorphs(reference: dict[str, Tensor]) -> None:
    torch.testing.assert_close(smoothness_loss(reference["in/flow"]), reference["out/grad_l2"])


def test_folding_has_the_closed_form_and_its_gradient_unfolds() -> None:
    rows = torch.arange(16.0)[:, None].expand(16, 16)
    # x -> x - s x keeps 1 - s of the area, along one axis and along both.
    for slope, one, both in ((0.0, 0.0, 0.0), (0.85, 0.0, 0.1 - 0.15**2), (0.95, 0.05, 0.1 - 0.05**2)):
        flow = torch.stack([-slope * rows, torch.zeros(16, 16)])[None]
        assert folding_loss(flow).item() == pytest.approx(one, abs=1e-5)
        assert folding_loss(torch.stack([-slope * rows, -slope * rows.T])[None]).item() == pytest.approx(
            both, abs=1e-5
        )
    torch.manual_seed(0)
    flow = (2 * torch.randn(1, 2, 32, 32)).requires_grad_(True)
    before, optimiser = folded_share(flow).item(), torch.optim.Adam([flow], 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        folding_loss(flow).backward()
        optimiser.step()
    assert before > 0.2
    assert folded_share(flow).item() < 0.001
    assert flow.norm(dim=1).mean() > 1.0  # the displacement itself stays


def test_luminance_is_in_0_to_1_with_bt601_weights() -> None:
    colours = torch.tensor([[-1, -1, -1], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).float()
    grey = luminance(colours[:, :, None, None]).flatten()
    torch.testing.assert_close(grey, torch.tensor([0, 1, 0.299, 0.587, 0.114]), atol=1e-6, rtol=0)


def pictures(generator: torch.Generator, count: int, side: int) -> Tensor:
    """Random pictures with structure at several scales, in [-1, 1]."""
    total = torch.zeros(count, 3, side, side)
    for knots, weight in ((4, 1.0), (8, 0.7), (12, 0.5)):
        coarse = torch.rand(count, 3, knots, knots, generator=generator) - 0.5
        total += weight * F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)
    return (1.2 * total).clamp(-1, 1)


def test_training_recovers_a_known_displacement_on_unseen_pictures(params: TrainDamParams) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    small = replace(params, widths=(16, 32, 32))
    objective = AlignmentSpec(small, 32).build()
    knots = torch.tensor([[[2.0, -1.5], [1.0, 2.5]], [[-1.5, 2.0], [-2.5, 1.0]]])[None]
    truth = F.interpolate(knots, size=(32, 32), mode="bicubic", align_corners=True)

    def batch() -> dict[str, Tensor]:
        i_g = pictures(generator, 4, 32)
        # I_F is I_G moved, smoothed and of less contrast, as a restoration at w = 1 is.
        moved = F.avg_pool2d(warp(i_g, truth.expand(4, -1, -1, -1)), 3, 1, 1, count_include_pad=False)
        return {"gp": i_g, "id": 0.7 * moved}

    optimiser = torch.optim.Adam(objective.model.parameters(), 1e-3)
    held_out = batch()
    before = objective.validate(objective.model, held_out)
    for step in range(120):
        result = objective.step(batch(), step)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
    with torch.no_grad():
        error = (objective.model(held_out["gp"], held_out["id"]) - truth).norm(dim=1).mean()
    after = objective.validate(objective.model, held_out)
    torch.set_num_threads(threads)
    assert error < 0.5 * truth.norm(dim=1).mean()
    assert after["lncc"] > before["lncc"] + 0.1
    assert after["lncc"] > after["lncc_unwarped"] + 0.1
    assert after["folded_share"] < 0.01
    assert after["flow_px"] == pytest.approx(truth.norm(dim=1).mean().item(), rel=0.5)


def test_figures_start_at_the_identity_and_the_loss_is_their_sum(params: TrainDamParams) -> None:
    torch.manual_seed(0)
    spec = pickle.loads(
        pickle.dumps(AlignmentSpec(replace(params, smoothness_weight=3.0, folding_weight=5.0), 64))
    )
    assert spec.columns == ("id", "gp")
    objective = spec.build()
    generator = torch.Generator().manual_seed(1)
    batch = {"gp": pictures(generator, 2, 64), "id": pictures(generator, 2, 64)}
    first = objective.validate(objective.model, batch)
    assert first["lncc"].item() == pytest.approx(first["lncc_unwarped"].item(), abs=1e-3)
    assert first["folded_share"] == 0
    torch.nn.init.normal_(objective.model.flow.weight, std=0.5)
    result = objective.step(batch, 0)
    logs = result.logs
    assert logs["smoothness"] > 0
    assert logs["folding"] > 0
    expected = 3 * logs["smoothness"] + 5 * logs["folding"] - logs["lncc"]
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert result.loss.requires_grad
    assert not any(value.requires_grad for value in logs.values())
    assert result.fake is None
    assert objective.discriminator is None
    sheet = objective.pictures(objective.model, batch)
    assert sheet.shape == (3, 2 * 64, 4 * 64)
    assert sheet.abs().max() <= 1

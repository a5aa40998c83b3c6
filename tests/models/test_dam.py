"""DAM, its warp and its folds, against closed forms, plain loops and VoxelMorph's own numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import Tensor

from cfpp.models.dam import DAM, folded_share, integrate, load_dam, warp, warp_picture
from cfpp.models.weights import Card, WeightsError, save_model
from tests.keys import sample


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "codeformer/parity/voxelmorph_ops.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return rows, columns


def test_the_untrained_flow_is_zero_pixels_and_keeps_the_picture() -> None:
    torch.manual_seed(0)
    dam, i_g, i_f = DAM(), torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    flow = dam(i_g, i_f)
    assert flow.shape == (2, 2, 64, 64)
    assert 0 < flow.abs().max() < 1e-3
    torch.testing.assert_close(warp(i_g, flow), i_g, atol=1e-3, rtol=0)


def test_layout_is_voxelmorphs() -> None:
    dam = DAM((16, 32, 32, 32), 0)
    shapes = [tuple(p.shape[:2]) for name, p in dam.named_parameters() if name.endswith("weight")]
    encoder = [(16, 6), (32, 16), (32, 32), (32, 32)]
    decoder = [(32, 32), (32, 64), (32, 64), (32, 64)]
    assert shapes == [*encoder, *decoder, (32, 48), (16, 32), (16, 16), (2, 16)]


@pytest.mark.parametrize("steps", [0, 7])
def test_any_side_and_autocast_give_a_float32_flow(steps: int) -> None:
    dam, picture = DAM((8, 8, 8), steps), torch.rand(1, 3, 41, 50)
    with torch.autocast("cpu", torch.bfloat16):
        flow = dam(picture, picture)
    assert flow.shape == (1, 2, 41, 50)
    assert flow.dtype == torch.float32


def test_pictures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 pixels"):
        DAM()(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="two equal ones"):
        DAM()(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="does not fit"):
        warp(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 9))


def test_warp_samples_at_row_plus_first_channel_and_repeats_the_border() -> None:
    rows, columns = grid(9, 12)
    image = torch.stack([rows, columns])[None]
    flow = torch.empty(1, 2, 9, 12)
    flow[:, 0], flow[:, 1] = 2.5, -3.0
    warped = warp(image, flow)
    torch.testing.assert_close(warped[0, 0], (rows + 2.5).clamp(max=8), atol=1e-4, rtol=0)
    torch.testing.assert_close(warped[0, 1], (columns - 3).clamp(min=0), atol=1e-4, rtol=0)


def test_warp_equals_voxelmorphs_where_it_samples_inside(reference: dict[str, Tensor]) -> None:
    flow = reference["in/flow"]
    rows, columns = grid(24, 20)
    y, x = rows + flow[:, 0], columns + flow[:, 1]
    inside = ((y >= 0) & (y <= 23) & (x >= 0) & (x <= 19))[:, None].expand(-1, 3, -1, -1)
    assert inside.float().mean() > 0.5
    warped = warp(reference["in/src"], flow)
    torch.testing.assert_close(warped[inside], reference["out/warp"][inside], atol=1e-5, rtol=1e-4)


def test_a_picture_is_warped_as_keys_interpolates() -> None:
    torch.manual_seed(0)
    image, flow = torch.rand(2, 3, 12, 10) * 2 - 1, 3 * torch.randn(2, 2, 12, 10)
    rows, columns = np.mgrid[:12, :10]
    wanted = [
        [sample(plane, rows + f[0], columns + f[1]) for plane in picture]
        for picture, f in zip(image.double().numpy(), flow.double().numpy(), strict=True)
    ]
    assert np.abs(wanted).max() > 1, "some value must overshoot for the clamp to be seen"
    found = warp_picture(image, flow).numpy()
    inside = np.stack([(r > 1) & (r < 10) & (c > 1) & (c < 8) for r, c in _positions(flow)])[:, None]
    inside = inside.repeat(3, axis=1)
    np.testing.assert_allclose(found[inside], np.clip(wanted, -1, 1)[inside], atol=1e-4)
    assert np.abs(found).max() <= 1
    still = warp_picture(image, torch.zeros_like(flow))
    torch.testing.assert_close(still, image, atol=1e-5, rtol=0)


def _positions(flow: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    rows, columns = np.mgrid[: flow.shape[2], : flow.shape[3]]
    return [(rows + f[0], columns + f[1]) for f in flow.numpy()]


def test_integration_equals_voxelmorphs_away_from_the_border(reference: dict[str, Tensor]) -> None:
    velocity = reference["in/velocity"]
    # Its padding is zeros and ours the border, so only what never left the picture can agree.
    margin = int(reference["out/vecint7"].abs().max().ceil()) + 1
    assert margin < 8
    inner = (slice(None), slice(None), slice(margin, -margin), slice(margin, -margin))
    ours, theirs = integrate(velocity, 7)[inner], reference["out/vecint7"][inner]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_integrating_a_rotation_gives_the_closed_form() -> None:
    rows, columns = grid(65, 65)
    y, x, angle = rows - 32, columns - 32, 0.4
    velocity = torch.stack([angle * x, -angle * y])[None]
    flow = integrate(velocity, 7)[0]
    y_to = np.cos(angle) * y + np.sin(angle) * x
    x_to = np.cos(angle) * x - np.sin(angle) * y
    near = (y**2 + x**2) < 20**2
    torch.testing.assert_close(flow[0][near], (y_to - y)[near], atol=0.05, rtol=0)
    torch.testing.assert_close(flow[1][near], (x_to - x)[near], atol=0.05, rtol=0)


def test_folded_share_has_the_closed_form() -> None:
    rows, columns = grid(16, 16)
    # x -> x - s x has determinant 1 - s along one axis: folded exactly from s = 1 on.
    for slope, expected in ((0.0, 0.0), (0.9, 0.0), (1.0, 1.0), (1.5, 1.0)):
        flow = torch.stack([-slope * rows, torch.zeros_like(rows)])[None]
        assert folded_share(flow).tolist() == [expected]
    # Both axes mirrored: the determinant is positive again.
    assert folded_share(torch.stack([-2 * rows, -2 * columns])[None]).item() == 0
    # A transposition: determinant -1, visible only in the off-diagonal terms.
    assert folded_share(torch.stack([columns - rows, rows - columns])[None]).item() == 1
    # Folds over 3 of the 15 row steps.
    part = torch.zeros(1, 2, 16, 16)
    part[:, 0] = -2 * (rows - 4).clamp(0, 3)
    assert folded_share(part).item() == pytest.approx(3 / 15)


def test_integration_unfolds_what_a_plain_displacement_folds() -> None:
    torch.manual_seed(3)
    velocity = F.interpolate(torch.randn(1, 2, 8, 8) * 8, size=(64, 64), mode="bicubic")
    assert folded_share(velocity).item() > 0.05
    assert folded_share(integrate(velocity, 7)).item() < 0.2 * folded_share(velocity).item()


def test_a_dam_that_integrates_is_its_velocity_followed_for_unit_time() -> None:
    torch.manual_seed(0)
    plain, whole = DAM((8, 16), 0), DAM((8, 16), 6)
    torch.nn.init.normal_(plain.flow.weight, 0.0, 0.1)
    whole.load_state_dict(plain.state_dict())
    i_g, i_f = torch.rand(2, 1, 3, 32, 32).unbind(0)
    with torch.no_grad():
        velocity, flow = plain(i_g, i_f), whole(i_g, i_f)
    assert velocity.abs().max() > 0.5
    # Euler's way, in a thousand steps: where a point that starts at x has got to
    rows, columns = (axis.numpy().astype(float) for axis in grid(32, 32))
    at = np.stack([rows, columns])
    for _ in range(1000):
        step = [map_coordinates(plane, at, order=1, mode="nearest") for plane in velocity[0].numpy()]
        at = at + np.stack(step) / 1000
    inner = (..., slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(flow[0].numpy()[inner], (at - np.stack([rows, columns]))[inner], atol=0.06)


def test_export_and_load_give_the_same_flow(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dam, picture = DAM((8, 16, 16), 3), torch.rand(1, 3, 32, 32)
    torch.nn.init.normal_(dam.flow.weight)
    save_model(
        tmp_path, dam, Card(kind="dam", config={"widths": [8, 16, 16], "integration_steps": 3}, steps=1)
    )
    loaded = load_dam(tmp_path)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded(picture, -picture), dam(picture, -picture))


def test_an_export_of_another_geometry_is_refused(tmp_path: Path) -> None:
    config = {"widths": [8, 16], "integration_steps": 0}
    save_model(tmp_path, DAM((8, 8), 0), Card(kind="dam", config=config, steps=1))
    with pytest.raises(WeightsError, match=r"encoder\.1"):
        load_dam(tmp_path)

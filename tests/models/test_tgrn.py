"""TGRN: starts at I_F, is steered by TAM, runs in every layout and precision, keeps to its budget."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cfpp.models.tgrn import TGRN, EncoderLevel, TextureAttention, load_tgrn
from cfpp.models.weights import Card, save_model

VARIANTS: list[dict[str, Any]] = [
    {},
    {"texture_attention": False},
    {"spatial_attention": True},
    {"widths": (8,), "res_blocks": 0},
]


def small(**changes: Any) -> TGRN:
    torch.manual_seed(0)
    return TGRN(**{"widths": (8, 12, 16), "res_blocks": 1, **changes})


def woken(**changes: Any) -> TGRN:
    """A TGRN whose last convolution is not zero."""
    tgrn = small(**changes)
    torch.nn.init.normal_(tgrn.last.weight, std=0.1)
    return tgrn


def pair(side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    i_f, i_warp = torch.rand(2, 2, 3, side, side, generator=generator) * 2.4 - 1.2
    return i_f, i_warp


@pytest.mark.parametrize("changes", VARIANTS)
def test_training_starts_at_i_f_unclamped(changes: dict[str, Any]) -> None:
    i_f, i_warp = pair()
    assert i_f.abs().max() > 1
    assert torch.equal(small(**changes)(i_f, i_warp), i_f)


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_parameter_learns_and_both_inputs_matter(changes: dict[str, Any]) -> None:
    tgrn, (i_f, i_warp) = woken(**changes), pair()
    i_f.requires_grad_(True)
    i_warp.requires_grad_(True)
    (tgrn(i_f, i_warp) - i_f).square().mean().backward()
    without = [name for name, p in tgrn.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert i_f.grad is not None
    assert i_f.grad.any()
    assert i_warp.grad is not None
    assert i_warp.grad.any()


@pytest.mark.parametrize("changes", VARIANTS)
def test_bf16_autocast_and_channels_last_stay_close_to_float32(changes: dict[str, Any]) -> None:
    tgrn, (i_f, i_warp) = woken(**changes), pair()
    plain = tgrn(i_f, i_warp)
    last = tgrn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = [x.to(memory_format=torch.channels_last) for x in (i_f, i_warp)]
    torch.testing.assert_close(last(*inputs), plain, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = last(*inputs)
    assert half.dtype == torch.float32
    change = (plain - i_f).abs().max()
    assert (half - plain).abs().max() < 0.05 * change


def test_attention_lies_between_0_and_1_and_decides_what_enters() -> None:
    torch.manual_seed(0)
    f, t = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    for spatial, shape in ((False, (2, 6, 1, 1)), (True, (2, 6, 8, 8))):
        weights = TextureAttention(6, spatial)(f * 20, t * 20)
        assert weights.shape == shape
        assert 0 <= weights.min() < weights.max() <= 1
    level = EncoderLevel(12, 8, 1, 1, texture_attention=True, spatial=False)
    assert level.attention is not None
    gate = level.attention.mlp[2]
    assert isinstance(gate, torch.nn.Linear)
    i_f, i_warp = (torch.nn.functional.pixel_unshuffle(x, 2) for x in pair())
    picture, texture = level.picture(i_f), level.texture(i_warp)
    # The last bias alone drives the gate shut or open: F' must be made of F or of T.
    torch.nn.init.zeros_(gate.weight)
    for bias, expected in ((-40.0, picture), (40.0, texture)):
        torch.nn.init.constant_(gate.bias, bias)
        fused, passed_on = level(i_f, i_warp)
        torch.testing.assert_close(fused, level.fuse(expected))
        torch.testing.assert_close(passed_on, texture)


def test_attention_depends_on_the_pooled_features_only_unless_spatial() -> None:
    torch.manual_seed(0)
    f, t = torch.randn(1, 6, 8, 8), torch.randn(1, 6, 8, 8)
    for spatial in (False, True):
        attention = TextureAttention(6, spatial)
        same = torch.allclose(attention(f, t).mean(), attention(f.roll(3, 2), t).mean(), atol=1e-7)
        assert same is not spatial


def test_the_default_keeps_to_its_arithmetic_budget() -> None:
    tgrn, picture = TGRN(), torch.zeros(1, 3, 128, 128)
    with FlopCounterMode(display=False) as counter:
        tgrn(picture, picture)
    assert counter.get_total_flops() < 6e9


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        small()(torch.zeros(1, 3, 36, 32), torch.zeros(1, 3, 36, 32))
    with pytest.raises(ValueError, match="two equal ones"):
        small()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64))


def test_it_can_learn_to_take_texture_from_the_warp() -> None:
    torch.manual_seed(0)
    tgrn = small()
    optimiser = torch.optim.Adam(tgrn.parameters(), 3e-3)

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        base = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4) - 0.5, size=(32, 32), mode="bilinear")
        texture = 0.3 * torch.randn(4, 3, 32, 32)
        return base, -base + texture, base + texture

    for _ in range(60):
        i_f, i_warp, wanted = draw()
        loss = (tgrn(i_f, i_warp) - wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    i_f, i_warp, wanted = draw()
    error = (tgrn(i_f, i_warp) - wanted).abs().mean()
    assert error < 0.5 * (i_f - wanted).abs().mean()


@pytest.mark.parametrize("changes", VARIANTS)
def test_export_and_load_give_the_same_picture(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = {"widths": [8, 12, 16], "res_blocks": 1, "texture_attention": True, "spatial_attention": False}
    config |= changes
    tgrn, (i_f, i_warp) = woken(**changes), pair()
    save_model(tmp_path, tgrn, Card(kind="tgrn", config=config, steps=1))
    loaded = load_tgrn(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(i_f, i_warp), tgrn(i_f, i_warp))

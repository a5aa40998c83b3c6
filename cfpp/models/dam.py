"""DAM, the deformable alignment module: the dense displacement that lays I_G onto I_F.

The network is the VoxelMorph U-Net (Balakrishnan 2019; geometry in method.md, section 3). Flows are in
pixels, [B, 2, H, W], channel 0 = rows (y), channel 1 = columns (x), and I_warp(x) = I_G(x + flow(x)).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.models.weights import load_weights, read_config

_SLOPE = 0.2


class DAM(nn.Module):
    """Predicts the flow from the pair (I_G, I_F).

    Args:
        widths: encoder channels per level; each level halves the side, so the shortest side must be at least
            2 ** len(widths) pixels. The decoder mirrors them, then come three full-resolution convolutions.
        integration_steps: 0 = the network gives the displacement itself; above 0 it gives a stationary
            velocity, integrated by that many scaling-and-squaring steps, which keeps the warp close to a
            diffeomorphism. At full resolution, unlike VoxelMorph's: an eyelid is two pixels wide at 128.

    Raises:
        ValueError: fewer than two levels, or a negative number of steps.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 32, 32, 32), integration_steps: int = 0) -> None:
        super().__init__()
        if len(widths) < 2 or integration_steps < 0:
            raise ValueError(f"DAM: widths {widths!r} or integration steps {integration_steps} out of range")
        self.integration_steps = integration_steps
        encoder = [_conv(i, o) for i, o in zip((6, *widths[:-1]), widths, strict=True)]
        # From the bottom up: convolve, upsample, and join the encoder's picture of that side.
        below, decoder = widths[-1], []
        for skip, width in zip(reversed(widths), (widths[-1], *reversed(widths[1:])), strict=True):
            decoder.append(_conv(below, width))
            below = width + skip
        full = (below, widths[1], widths[0], widths[0])
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)
        self.full = nn.Sequential(*[_conv(i, o) for i, o in pairwise(full)])
        self.flow = nn.Conv2d(widths[0], 2, 3, padding=1)
        nn.init.normal_(self.flow.weight, 0.0, 1e-5)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]

    def forward(self, i_g: Tensor, i_f: Tensor) -> Tensor:
        """Flow [B, 2, H, W], pixels, float32.

        Args:
            i_g: I_G, [B, 3, H, W] in [-1, 1], the picture that will be warped.
            i_f: I_F, [B, 3, H, W] in [-1, 1], the picture it is laid on.

        Raises:
            ValueError: the shapes differ or the side is too short for the number of levels.
        """
        shortest = 2 ** len(self.encoder)
        if i_g.shape != i_f.shape or min(i_g.shape[-2:]) < shortest:
            raise ValueError(
                f"DAM: shapes {tuple(i_g.shape)} and {tuple(i_f.shape)}; "
                f"expected two equal ones of at least {shortest} pixels a side"
            )
        # Not VoxelMorph's [0, 1]: the common offset keeps a short training on a plateau where the flow is 0.
        x = torch.cat([i_g, i_f], 1)
        skips = []
        for block in self.encoder:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = F.interpolate(block(x), size=skip.shape[-2:], mode="nearest")
            x = torch.cat([x, skip], 1)
        x = self.full(x)
        # Eight bits of mantissa are too few for a displacement of several pixels.
        with torch.autocast(x.device.type, enabled=False):
            flow: Tensor = self.flow(x.float())
            return integrate(flow, self.integration_steps) if self.integration_steps else flow


def warp(image: Tensor, flow: Tensor, sampling: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Sample ``image`` at x + flow(x), the border repeated outside.

    Args:
        image: [B, C, H, W], any range.
        flow: [B, 2, H, W] in pixels, (row, column).
        sampling: bilinear, as DAM is trained, or bicubic, which may overshoot the range.

    Returns:
        [B, C, H, W], float32 (float64 if ``flow`` is).

    Raises:
        ValueError: batch or sides of the two differ.
    """
    if flow.shape != (image.shape[0], 2, *image.shape[-2:]):
        raise ValueError(f"warp: flow {tuple(flow.shape)} does not fit image {tuple(image.shape)}")
    height, width = image.shape[-2:]
    with torch.autocast(flow.device.type, enabled=False):
        flow = flow if flow.dtype == torch.float64 else flow.float()
        rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 0]
        columns = torch.arange(width, device=flow.device, dtype=flow.dtype)[None, :] + flow[:, 1]
        grid = torch.stack([columns * (2 / max(width - 1, 1)) - 1, rows * (2 / max(height - 1, 1)) - 1], -1)
        warped: Tensor = F.grid_sample(
            image.to(flow.dtype), grid, mode=sampling, padding_mode="border", align_corners=True
        )
        return warped


def warp_picture(i_g: Tensor, flow: Tensor) -> Tensor:
    """I_warp as it is shown and given to TGRN: [B, 3, H, W] in [-1, 1], as ``i_g``.

    Bicubic, since bilinear sampling between pixels blurs: of I_G's fine detail it kept 0.64, this 0.78
    (docs/experiments.md).
    """
    return warp(i_g, flow, "bicubic").clamp(-1, 1)


def integrate(velocity: Tensor, steps: int) -> Tensor:
    """Displacement of a stationary velocity field over unit time, by scaling and squaring.

    Args:
        velocity: [B, 2, H, W], pixels per unit time.
        steps: number of squarings; 2 ** steps Euler steps in effect.
    """
    flow = velocity * 0.5**steps
    for _ in range(steps):
        flow = flow + warp(flow, flow)
    return flow


def jacobian_determinant(flow: Tensor) -> Tensor:
    """How much the warp x -> x + flow(x) stretches area, [B, H - 1, W - 1], 1 where the flow is constant.

    By forward differences, which the last row and column lack. The warp folds where it is not positive.
    """
    flow = flow.float()
    by_row = (flow[:, :, 1:, :] - flow[:, :, :-1, :])[..., :-1]
    by_column = (flow[:, :, :, 1:] - flow[:, :, :, :-1])[:, :, :-1, :]
    return (1 + by_row[:, 0]) * (1 + by_column[:, 1]) - by_column[:, 0] * by_row[:, 1]


def folded_share(flow: Tensor) -> Tensor:
    """Share of the pixels at which the warp folds (`jacobian_determinant`), [B] in [0, 1]."""
    return (jacobian_determinant(flow) <= 0).float().mean((1, 2))


def load_dam(folder: str | Path) -> DAM:
    """The exported DAM of ``folder`` (safetensors and card), in eval mode, frozen.

    The card's config must hold ``widths`` and ``integration_steps``.

    Raises:
        WeightsError: missing, damaged, never trained, or not a DAM of that geometry.
    """
    config = read_config(folder, "widths", "integration_steps")
    dam = DAM(tuple(config["widths"]), int(config["integration_steps"]))
    load_weights(dam, folder, "dam")
    return dam.eval().requires_grad_(False)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    # PyTorch's default shrinks the signal at each of the dozen layers, which slows the start.
    nn.init.kaiming_normal_(convolution.weight, a=_SLOPE)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.LeakyReLU(_SLOPE))

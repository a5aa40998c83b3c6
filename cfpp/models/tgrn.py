"""TGRN, the texture-prior guided restoration network: I_out from I_F (identity) and I_warp (texture).

A three-level U-Net (method.md, sections 1 and 4). At each encoder level the texture attention module (TAM)
decides, channel by channel, how much of that level's texture features enters the picture's features.

Two choices of ours. The levels work on pictures folded 2 x 2 into channels (pixel unshuffle), a quarter of
the arithmetic with nothing lost, and a thin full-resolution stage at the end sees both inputs again. There is
no normalisation, which would take away the very contrast and colour to be restored; the residual blocks start
near the identity instead, which keeps the deep sum stable, in bfloat16 too.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.models.weights import load_weights, read_config

_SLOPE = 0.2
_FOLD = 2


class TGRN(nn.Module):
    """I_out = I_F + residual(I_F, I_warp); the residual is zero at initialisation.

    Args:
        widths: channels per level, the finest first.
        res_blocks: residual blocks per level, in the picture's branch, the texture branch and the decoder.
        texture_attention: False = features of picture and texture are plainly concatenated (ablation).
        spatial_attention: adds a map over positions to TAM's weights per channel.

    Raises:
        ValueError: no level, or a negative number of blocks.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 96),
        res_blocks: int = 2,
        texture_attention: bool = True,
        spatial_attention: bool = False,
    ) -> None:
        super().__init__()
        if not widths or res_blocks < 0:
            raise ValueError(f"TGRN: widths {widths!r} or res_blocks {res_blocks} out of range")
        self.multiple = _FOLD * 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList()
        below = 3 * _FOLD**2
        for level, width in enumerate(widths):
            stride = 2 if level else 1
            self.encoder.append(
                EncoderLevel(below, width, stride, res_blocks, texture_attention, spatial_attention)
            )
            below = width
        self.decoder = nn.ModuleList(
            DecoderLevel(coarse, fine, res_blocks)
            for coarse, fine in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True)
        )
        thin = max(widths[0] // 2, 8)
        self.expand = _conv(widths[0], thin)
        self.shallow = _conv(6, thin)
        self.join = _conv(2 * thin, thin)
        self.last = nn.Conv2d(thin, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, i_f: Tensor, i_warp: Tensor) -> Tensor:
        """I_out, [B, 3, H, W], float32, about [-1, 1] but not clamped: the caller clamps for display.

        Args:
            i_f: I_F, [B, 3, H, W] in [-1, 1].
            i_warp: I_warp, the same shape and range.

        Raises:
            ValueError: the shapes differ or the sides are no multiple of ``self.multiple``.
        """
        if i_f.shape != i_warp.shape or any(side % self.multiple for side in i_f.shape[-2:]):
            raise ValueError(
                f"TGRN: shapes {tuple(i_f.shape)} and {tuple(i_warp.shape)}; "
                f"expected two equal ones with sides that are multiples of {self.multiple}"
            )
        features, texture = F.pixel_unshuffle(i_f, _FOLD), F.pixel_unshuffle(i_warp, _FOLD)
        skips = []
        for level in self.encoder:
            features, texture = level(features, texture)
            skips.append(features)
        for decode, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            features = decode(features, skip)
        fine = self.expand(F.interpolate(features, scale_factor=_FOLD, mode="nearest"))
        fine = self.join(torch.cat([fine, self.shallow(torch.cat([i_f, i_warp], 1))], 1))
        out: Tensor = i_f.float() + self.last(fine).float()
        return out


class EncoderLevel(nn.Module):
    """One level: features F and T of picture and texture, TAM, dynamic fusion, 3 x 3 convolution."""

    def __init__(
        self, inputs: int, width: int, stride: int, res_blocks: int, texture_attention: bool, spatial: bool
    ) -> None:
        super().__init__()
        self.picture = _branch(inputs, width, stride, res_blocks)
        self.texture = _branch(inputs, width, stride, res_blocks)
        self.attention = TextureAttention(width, spatial) if texture_attention else None
        self.fuse = _conv(width if texture_attention else 2 * width, width)

    def forward(self, picture: Tensor, texture: Tensor) -> tuple[Tensor, Tensor]:
        """Fused features F' and texture features T of this level, both [B, width, h, w]."""
        f, t = self.picture(picture), self.texture(texture)
        mixed = torch.cat([f, t], 1) if self.attention is None else torch.lerp(f, t, self.attention(f, t))
        return self.fuse(mixed), t


class TextureAttention(nn.Module):
    """TAM: how much texture enters, a in (0, 1), from the pooled features of picture and texture.

    Args:
        width: channels of either branch.
        spatial: add a map over positions to the logits of the channels, from the mean and the maximum over
            the channels of both branches.
    """

    def __init__(self, width: int, spatial: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width, width), nn.LeakyReLU(_SLOPE), nn.Linear(width, width))
        self.spatial = nn.Conv2d(4, 1, 7, padding=3) if spatial else None

    def forward(self, f: Tensor, t: Tensor) -> Tensor:
        """a, [B, width, 1, 1], or [B, width, h, w] with the spatial map."""
        pooled = torch.cat([f.mean((2, 3)), t.mean((2, 3))], 1)
        logits: Tensor = self.mlp(pooled)[:, :, None, None]
        if self.spatial is not None:
            maps = [x for y in (f, t) for x in (y.mean(1, keepdim=True), y.amax(1, keepdim=True))]
            logits = logits + self.spatial(torch.cat(maps, 1))
        return logits.sigmoid().to(f.dtype)


class DecoderLevel(nn.Module):
    """Nearest upsampling and convolution, the skip, residual blocks."""

    def __init__(self, coarse: int, fine: int, res_blocks: int) -> None:
        super().__init__()
        self.up = _conv(coarse, fine)
        self.merge = nn.Conv2d(2 * fine, fine, 1)
        self.blocks = nn.Sequential(*[ResBlock(fine) for _ in range(res_blocks)])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, coarse, h, w] and the skip [B, fine, 2h, 2w] to [B, fine, 2h, 2w]."""
        x = self.up(F.interpolate(x, scale_factor=2, mode="nearest"))
        out: Tensor = self.blocks(self.merge(torch.cat([x, skip], 1)))
        return out


class ResBlock(nn.Module):
    """x + conv(act(conv(x))), the second convolution initialised at a tenth of its usual scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x))
        return out


def load_tgrn(folder: str | Path) -> TGRN:
    """The exported TGRN of ``folder`` (safetensors and card), in eval mode, frozen.

    The card's config must hold ``widths``, ``res_blocks``, ``texture_attention``, ``spatial_attention``.

    Raises:
        WeightsError: missing, damaged, never trained, or not a TGRN of that geometry.
    """
    config = read_config(folder, "widths", "res_blocks", "texture_attention", "spatial_attention")
    tgrn = TGRN(
        widths=tuple(config["widths"]),
        res_blocks=int(config["res_blocks"]),
        texture_attention=bool(config["texture_attention"]),
        spatial_attention=bool(config["spatial_attention"]),
    )
    load_weights(tgrn, folder, "tgrn")
    return tgrn.eval().requires_grad_(False)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(_SLOPE))


def _branch(inputs: int, width: int, stride: int, res_blocks: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, width, stride), *[ResBlock(width) for _ in range(res_blocks)])

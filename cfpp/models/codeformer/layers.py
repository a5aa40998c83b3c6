"""Building blocks of CodeFormer; parameter names are those of the published checkpoint."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, eps 1e-6: the only normalisation of the convolutional half."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Pre-norm residual block, [B, C_in, H, W] -> [B, C_out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_out: nn.Module | None = None
        if in_channels != out_channels:
            self.conv_out = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Residual branch added to the input (1x1-projected when the channels change)."""
        inner: Tensor = self.conv1(F.silu(self.norm1(x)))
        inner = self.conv2(F.silu(self.norm2(inner)))
        shortcut: Tensor = x if self.conv_out is None else self.conv_out(x)
        return shortcut + inner


class AttnBlock(nn.Module):
    """Single-head self-attention over positions, [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Input plus the projected attention output (scale C^-0.5)."""
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        attended: Tensor = self.proj_out(mixed.transpose(1, 2).reshape(x.shape))
        return x + attended


class Downsample(nn.Module):
    """Halve the side: one zero row below and one zero column at the right, then 3x3 with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H // 2, W // 2]."""
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Double the side: nearest, then 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2H, 2W]."""
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class FuseBlock(nn.Module):
    """Controllable feature transformation: encoder features scale and shift decoder features.

    ``out = dec + w * (dec * scale + shift)`` with scale and shift predicted from both. The last convolutions
    start at zero, so that training starts from the decoder alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels)
        self.scale = self._branch(channels)
        self.shift = self._branch(channels)

    @staticmethod
    def _branch(channels: int) -> nn.Sequential:
        last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2), last)

    def forward(self, encoded: Tensor, decoded: Tensor, w: float) -> Tensor:
        """Both inputs and the output [B, C, H, W]; ``w`` is the identity weight, 0 leaves ``decoded``."""
        joint = self.encode_enc(torch.cat([encoded, decoded], dim=1))
        scale: Tensor = self.scale(joint)
        shift: Tensor = self.shift(joint)
        return decoded + w * (decoded * scale + shift)


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and MLP (exact GELU, no dropout); the position joins queries and keys only."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """``x`` [L, B, C]; ``position`` broadcastable to it, added after norm1."""
        normed = self.norm1(x)
        query = normed if position is None else normed + position
        x = x + self.self_attn(query, query, normed, need_weights=False)[0]
        hidden: Tensor = self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return x + hidden


def channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Per-channel mean and standard deviation [B, C, 1, 1] (unbiased variance + 1e-5) of [B, C, H, W]."""
    variance, mean = torch.var_mean(features, dim=(2, 3), correction=1, keepdim=True)
    return mean, (variance + 1e-5).sqrt()


def adain(content: Tensor, style: Tensor) -> Tensor:
    """``content`` [B, C, H, W] with the per-channel statistics of ``style``; always in float32."""
    content_mean, content_std = channel_statistics(content.float())
    style_mean, style_std = channel_statistics(style.float())
    return (content.float() - content_mean) / content_std * style_std + style_mean

"""Deep metric learning for TGRN: pull I_out towards the anchor-positive, away from the hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.models.codeformer.autoencoder import Encoder
from cfpp.objectives.perceptual import LPIPS

LEVELS = 3
_EPSILON = 1e-6


class TextureEmbedding(nn.Module):
    """Frozen embedding of a picture's texture: pooled statistics of a network's features.

    Mean and standard deviation over the positions, per channel, of the network's finest levels, where the
    texture is; deeper levels hold the face's identity and cost more than they tell. Each level counts the
    same, and the whole has length 1.

    Args:
        levels: parts of a network, one after the other; copied, and the output of each is pooled.
    """

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = deepcopy(nn.ModuleList(levels)).eval().requires_grad_(False)

    @classmethod
    def of_encoder(cls, encoder: Encoder, levels: int = LEVELS) -> TextureEmbedding:
        """By the prior's own encoder."""
        sides = sorted(encoder.taps, reverse=True)[:levels]
        ends = [encoder.taps[side] + 1 for side in sides]
        return cls([nn.Sequential(*encoder.blocks[start:end]) for start, end in pairwise([0, *ends])])

    @classmethod
    def of_lpips(cls, lpips: LPIPS, levels: int = LEVELS) -> TextureEmbedding:
        """By the backbone of LPIPS, at the levels where that compares pictures."""
        net = lpips.net
        first, *others = [getattr(net.net, f"slice{level + 1}") for level in range(levels)]
        return cls([nn.Sequential(net.scaling_layer, first), *others])

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, D] of length 1, float32, from pictures [B, 3, H, W] in [-1, 1]; differentiable."""
        x, parts = pictures, []
        for level in self.levels:
            x = level(x)
            values = x.float().flatten(2)
            deviation = (values.var(2, correction=0) + _EPSILON).sqrt()
            parts.append(F.normalize(torch.cat([values.mean(2), deviation], 1), dim=1))
        return F.normalize(torch.cat(parts, 1), dim=1)

    def train(self, mode: bool = True) -> TextureEmbedding:
        """Stays in evaluation mode."""
        return super().train(False)


def cosine_triplet(
    anchor: Tensor, positive: Tensor, negatives: Sequence[Tensor], margin: float
) -> tuple[Tensor, Tensor]:
    """Triplet loss on cosine similarity, in units of how far positive and negative lie apart.

    Each sample makes one triplet per negative, violated by (s(a, n) - s(a, p)) / (1 - s(p, n)) + margin where
    that is above 0: the fraction is 1 at the negative, -1 at the positive. Without the division it is the
    triplet of pytorch-metric-learning. Textures of one face are so alike that all its cosines are 0.999; the
    plain difference is then far below any margin, and the loss neither tells them apart nor ever ends.

    Args:
        anchor: [B, D] of any length; carries the gradient.
        positive: [B, D].
        negatives: at least one [B, D].
        margin: 0 = nearer to the positive than to the negative, 1 = all the way to the positive.

    Returns:
        The mean over violated triplets (0 when there are none), and their share in [0, 1].

    Raises:
        ValueError: no negative.
    """
    if not negatives:
        raise ValueError("cosine_triplet: no negatives; name at least one in train_tgrn.negatives")
    a, p, *others = (F.normalize(x, dim=1) for x in (anchor, positive, *negatives))
    # On the unit sphere 1 - s is half the squared distance, which keeps its digits where s is near 1.
    near = _squared(a - p)
    leans = [(near - _squared(a - n)) / _squared(p - n).clamp_min(_EPSILON**2) for n in others]
    violation = F.relu(torch.stack(leans) + margin)
    active = (violation > 0).sum()
    return violation.sum() / active.clamp_min(1), active / violation.numel()


def _squared(difference: Tensor) -> Tensor:
    return difference.square().sum(1)

"""Nearest-neighbour vector quantiser of the codebook stage."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

CODEBOOK_BETA = 0.25


class Quantized(NamedTuple):
    """What quantising a latent gives.

    Attributes:
        features: code features with the straight-through gradient, [B, C, H, W].
        loss: scalar codebook loss.
        indices: code per position, row-major, [B * H * W, 1], int64.
        perplexity: scalar, 1 to the codebook size: how many codes this batch uses evenly.
        mean_distance: scalar, mean squared distance of every latent to every code.
    """

    features: Tensor
    loss: Tensor
    indices: Tensor
    perplexity: Tensor
    mean_distance: Tensor


class VectorQuantizer(nn.Module):
    """Replace each position of a latent by its nearest code (squared Euclidean).

    CodeFormer weighs the two terms of the loss the other way round than VQ-VAE: 1 on the term that pulls the
    latent to its code, ``CODEBOOK_BETA`` on the one that pulls the code.
    """

    def __init__(self, codebook_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)

    def distances(self, latent: Tensor) -> Tensor:
        """Squared distances [B * H * W, codes] of a latent [B, C, H, W], in float32.

        Half precision would flip codes whose distances nearly tie.
        """
        with torch.autocast(latent.device.type, enabled=False):
            rows = latent.float().permute(0, 2, 3, 1).flatten(0, 2)
            codes = self.embedding.weight.float()
            return rows.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * rows @ codes.t()

    def encode(self, latent: Tensor) -> Tensor:
        """Nearest code of every position, [B, H * W] int64, row-major."""
        return self.distances(latent).argmin(1).view(latent.shape[0], -1)

    def look_up(self, indices: Tensor, height: int, width: int) -> Tensor:
        """Code features [B, C, height, width] of indices [B, height * width] (row-major)."""
        features: Tensor = self.embedding(indices.reshape(-1, height, width))
        return features.permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def unused(self, latent: Tensor) -> Tensor:
        """Which codes no position of ``latent`` [B, C, H, W] takes, bool [codes]."""
        unused = torch.ones(self.embedding.num_embeddings, dtype=torch.bool, device=latent.device)
        unused[self.encode(latent).flatten()] = False
        return unused

    @torch.no_grad()
    def revive(self, latent: Tensor, codes: Tensor) -> None:
        """Move ``codes`` (bool [codes]) onto positions of ``latent`` [B, C, H, W] that no code is near.

        Each goes to a position drawn in proportion to its squared distance from the nearest code (k-means++),
        from torch's global generator.
        """
        nearest = self.distances(latent).amin(1)
        moving = codes.nonzero()[: len(nearest), 0]
        if len(moving) and nearest.isfinite().all():  # otherwise the loss will say so
            chances = nearest.clamp_min(0) + nearest.mean().clamp_min(1e-6) * 1e-3
            rows = latent.float().permute(0, 2, 3, 1).flatten(0, 2)
            weight = self.embedding.weight
            weight[moving] = rows[torch.multinomial(chances, len(moving))].to(weight.dtype)

    def forward(self, latent: Tensor) -> Quantized:
        """Quantise ``latent`` [B, C, H, W]."""
        batch, _, height, width = latent.shape
        distances = self.distances(latent)
        indices = distances.argmin(1)
        codes = self.look_up(indices.view(batch, -1), height, width)
        latent = latent.float()
        pull_latent = (codes.detach() - latent).square().mean()
        pull_codes = (codes - latent.detach()).square().mean()
        shares = torch.bincount(indices, minlength=distances.shape[1]) / indices.numel()
        perplexity = torch.exp(-(shares * (shares + 1e-10).log()).sum())
        return Quantized(
            features=latent + (codes - latent).detach(),
            loss=pull_latent + CODEBOOK_BETA * pull_codes,
            indices=indices[:, None],
            perplexity=perplexity,
            mean_distance=distances.detach().mean(),
        )

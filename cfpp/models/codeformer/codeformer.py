"""CodeFormer: a transformer reads the codes of the clean face off the degraded one.

Written from published facts (arXiv 2206.11253 and the layout of the released checkpoint); the parameter names
are those of that checkpoint, so it loads directly.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cfpp.models.codeformer.autoencoder import Encoder, Generator, pyramid
from cfpp.models.codeformer.layers import FuseBlock, TransformerLayer, adain
from cfpp.models.codeformer.quantizer import VectorQuantizer
from cfpp.training_params import LATENT_SIDE, NetworkParams


class Restored(NamedTuple):
    """Output of a forward pass.

    Attributes:
        picture: [B, 3, S, S], about [-1, 1], not clamped.
        logits: of each code at each position, row-major, [B, 256, codes].
        latent: encoder output [B, embed_dim, 16, 16].
    """

    picture: Tensor
    logits: Tensor
    latent: Tensor


class CodeFormer(nn.Module):
    """Restores aligned faces [B, 3, S, S] in [-1, 1].

    The identity weight ``w`` runs from 0 (codes alone: rich texture, drifting identity) to 1 (encoder
    features fused in: faithful, smoother).

    Args:
        network: geometry; the published one is width 64, multipliers 1, 2, 2, 4, 4, 8, ...
        image_size: side S of the pictures, pixels.

    Raises:
        ValueError: the geometry does not lead to a 16 x 16 latent.
    """

    def __init__(self, network: NetworkParams, image_size: int) -> None:
        super().__init__()
        channels = {level.side: level.channels for level in pyramid(network, image_size)}
        self.network = network
        self.image_size = image_size
        dim = network.transformer_dim
        self.position_emb = nn.Parameter(torch.zeros(LATENT_SIDE * LATENT_SIDE, dim))
        self.encoder = Encoder(network, image_size)
        self.quantize = VectorQuantizer(network.codebook_size, network.embed_dim)
        self.generator = Generator(network, image_size)
        self.feat_emb = nn.Linear(network.embed_dim, dim)
        self.ft_layers = nn.ModuleList(
            TransformerLayer(dim, network.transformer_heads, 2 * dim)
            for _ in range(network.transformer_layers)
        )
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, network.codebook_size, bias=False)
        )
        self.fuse_convs_dict = nn.ModuleDict({str(side): FuseBlock(channels[side]) for side in network.fuse})

    def predict(self, latent: Tensor) -> Tensor:
        """Logits [B, 256, codes] of a latent [B, embed_dim, 16, 16]."""
        position = self.position_emb[:, None]
        x = self.feat_emb(latent.flatten(2).permute(2, 0, 1))
        for layer in self.ft_layers:
            x = layer(x, position)
        logits: Tensor = self.idx_pred_layer(x).transpose(0, 1)
        return logits

    def code_features(self, logits: Tensor, latent: Tensor, *, use_adain: bool) -> Tensor:
        """Features [B, embed_dim, 16, 16] of the most likely codes.

        ``use_adain`` gives them the per-channel statistics of the latent (inference; off in training).
        """
        features: Tensor = self.quantize.look_up(logits.argmax(2), LATENT_SIDE, LATENT_SIDE)
        return adain(features, latent) if use_adain else features

    def decode(self, features: Tensor, encoded: dict[int, Tensor], w: float) -> Tensor:
        """Picture of code features, with the encoder's features (detached) fused in when ``w`` is above 0."""
        if w <= 0:
            picture: Tensor = self.generator(features)
            return picture
        return self._fuse(features, encoded, w, 0)

    def forward(self, picture: Tensor, w: float, *, use_adain: bool = True) -> Restored:
        """Restore ``picture`` [B, 3, S, S] in [-1, 1] at identity weight ``w``."""
        latent, encoded = self.encoder.encode(picture, self.network.fuse if w > 0 else ())
        logits = self.predict(latent)
        features = self.code_features(logits, latent, use_adain=use_adain)
        return Restored(self.decode(features, encoded, w), logits, latent)

    @torch.no_grad()
    def restore_pair(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends of the identity weight in one pass.

        Encoder, transformer and the generator's blocks before the first fusion are computed once.

        Args:
            lq: degraded faces [B, 3, S, S] in [-1, 1].

        Returns:
            I_F (w = 1) and I_G (w = 0), each [B, 3, S, S] in [-1, 1].
        """
        latent, encoded = self.encoder.encode(lq, self.network.fuse)
        features = self.code_features(self.predict(latent), latent, use_adain=True)
        shared = next((stop for _, stop, _ in self.generator.segments(self.network.fuse)), 0)
        features = self.generator.run(features, 0, shared)
        i_f = self._fuse(features, encoded, 1.0, shared)
        i_g = self.generator.run(features, shared, len(self.generator.blocks))
        return _in_range(i_f), _in_range(i_g)

    def _fuse(self, x: Tensor, encoded: dict[int, Tensor], w: float, begin: int) -> Tensor:
        """Generator from block ``begin`` on (a fusing point at most), fusing at every fused side."""
        done = begin
        for start, stop, side in self.generator.segments(self.network.fuse):
            x = self.generator.run(x, max(start, begin), stop)
            x = self.fuse_convs_dict[str(side)](encoded[side].detach(), x, w)
            done = stop
        return self.generator.run(x, done, len(self.generator.blocks))


def _in_range(picture: Tensor) -> Tensor:
    """Clamped to [-1, 1], but for infinities, which become nan: a clamp would hide them."""
    nan = float("nan")
    return picture.nan_to_num(nan=nan, posinf=nan, neginf=nan).clamp(-1, 1)

"""Encoder, generator and the stage-1 autoencoder that joins them through the codebook."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from cfpp.models.codeformer.layers import AttnBlock, Downsample, ResBlock, Upsample, group_norm
from cfpp.models.codeformer.quantizer import VectorQuantizer
from cfpp.training_params import LATENT_SIDE, NetworkParams


class Level(NamedTuple):
    """One resolution of the pyramid: its side in pixels and its channels."""

    side: int
    channels: int


def pyramid(network: NetworkParams, image_size: int) -> list[Level]:
    """Levels from the picture down to the latent.

    Raises:
        ValueError: the levels do not lead from ``image_size`` to a latent of 16 x 16.
    """
    deepest = len(network.multipliers) - 1
    if image_size != LATENT_SIDE << deepest:
        raise ValueError(
            f"prior.network.multipliers: {deepest + 1} levels make a latent of {LATENT_SIDE} x {LATENT_SIDE} "
            f"from {LATENT_SIDE << deepest} pixels, but the pictures have {image_size}"
        )
    return [Level(image_size >> i, network.width * m) for i, m in enumerate(network.multipliers)]


class Encoder(nn.Module):
    """Picture [B, 3, S, S] in [-1, 1] -> latent [B, embed_dim, 16, 16].

    ``taps`` maps a side to the block after which its features are taken for fusion.
    """

    def __init__(self, network: NetworkParams, image_size: int) -> None:
        super().__init__()
        levels = pyramid(network, image_size)
        blocks: list[nn.Module] = [nn.Conv2d(3, network.width, 3, padding=1)]
        self.taps: dict[int, int] = {}
        channels = network.width
        for level in levels:
            for _ in range(network.res_blocks):
                blocks.append(ResBlock(channels, level.channels))
                channels = level.channels
                self.taps[level.side] = len(blocks) - 1
                if level.side == LATENT_SIDE:
                    blocks.append(AttnBlock(channels))
            if level.side != LATENT_SIDE:
                blocks.append(Downsample(channels))
        blocks += [ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)]
        blocks += [group_norm(channels), nn.Conv2d(channels, network.embed_dim, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, picture: Tensor) -> Tensor:
        """The latent alone."""
        return self.encode(picture, ())[0]

    def encode(self, picture: Tensor, sides: tuple[int, ...]) -> tuple[Tensor, dict[int, Tensor]]:
        """The latent, and the features at each of ``sides`` [B, C, side, side]."""
        wanted = {self.taps[side]: side for side in sides}
        features: dict[int, Tensor] = {}
        x = picture
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in wanted:
                features[wanted[index]] = x
        return x, features


class Generator(nn.Module):
    """Code features [B, embed_dim, 16, 16] -> picture [B, 3, S, S], about [-1, 1], not clamped.

    ``taps`` maps a side to the block after which encoder features are fused in.
    """

    def __init__(self, network: NetworkParams, image_size: int) -> None:
        super().__init__()
        levels = pyramid(network, image_size)[::-1]
        channels = levels[0].channels
        blocks: list[nn.Module] = [nn.Conv2d(network.embed_dim, channels, 3, padding=1)]
        blocks += [ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels)]
        self.taps: dict[int, int] = {}
        for level in levels:
            if level.side != LATENT_SIDE:
                blocks.append(Upsample(channels))
            for number in range(network.res_blocks):
                blocks.append(ResBlock(channels, level.channels))
                channels = level.channels
                # Fusing happens as early as a level has its channels, at the latent as late as possible.
                if number == 0 or level.side == LATENT_SIDE:
                    self.taps[level.side] = len(blocks) - 1
                if level.side == LATENT_SIDE:
                    blocks.append(AttnBlock(channels))
        blocks += [group_norm(channels), nn.Conv2d(channels, 3, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the convolution that makes the picture."""
        last = self.blocks[-1]
        assert isinstance(last, nn.Conv2d)
        return last.weight

    def forward(self, x: Tensor) -> Tensor:
        """Decode without fusing."""
        return self.run(x, 0, len(self.blocks))

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Blocks ``start`` to ``stop`` (exclusive) only."""
        for block in self.blocks[start:stop]:
            x = block(x)
        return x

    def segments(self, sides: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
        """(start, stop, side): run blocks start:stop, then fuse at that side; the rest follows the last."""
        start = 0
        for stop, side in sorted((self.taps[side] + 1, side) for side in sides):
            yield start, stop, side
            start = stop


class Reconstruction(NamedTuple):
    """Output of the autoencoder.

    Attributes:
        picture: [B, 3, S, S], about [-1, 1], not clamped.
        loss: scalar codebook loss.
        indices: codes [B * 256, 1], int64.
        perplexity: scalar, codes evenly used in the batch.
        latent: encoder output [B, embed_dim, 16, 16].
    """

    picture: Tensor
    loss: Tensor
    indices: Tensor
    perplexity: Tensor
    latent: Tensor


class VQAutoEncoder(nn.Module):
    """Stage 1: picture -> latent -> nearest codes -> picture. Keys equal those of the published network."""

    def __init__(self, network: NetworkParams, image_size: int) -> None:
        super().__init__()
        self.encoder = Encoder(network, image_size)
        self.quantize = VectorQuantizer(network.codebook_size, network.embed_dim)
        self.generator = Generator(network, image_size)

    def forward(self, picture: Tensor) -> Reconstruction:
        """Reconstruct ``picture`` [B, 3, S, S] in [-1, 1]."""
        latent = self.encoder(picture)
        quantized = self.quantize(latent)
        return Reconstruction(
            picture=self.generator(quantized.features),
            loss=quantized.loss,
            indices=quantized.indices,
            perplexity=quantized.perplexity,
            latent=latent,
        )

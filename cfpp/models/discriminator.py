"""Patch discriminator of VQGAN; parameter names are those of the published training checkpoint."""

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Tells real from made patches: [B, 3, H, W] in [-1, 1] -> logits [B, 1, h, w], high = real.

    Args:
        width: channels after the first convolution; doubled per layer up to 8 x width.
        layers: convolutions of stride 2.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
        for layer in range(1, layers + 1):
            wider = width * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            blocks += [
                nn.Conv2d(channels, wider, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            channels = wider
        blocks.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.main = nn.Sequential(*blocks)

    def forward(self, pictures: Tensor) -> Tensor:
        """Patch logits of ``pictures``."""
        logits: Tensor = self.main(pictures)
        return logits

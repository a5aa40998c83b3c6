"""The face probe: a small network for landmarks and identity of the embedded, procedural faces.

It lets identity similarity and landmark error run with nothing to fetch. It has seen procedural faces
only and says nothing about photographs. `python -m pipelines.train_probe` makes its weights.
"""

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.models.weights import load_weights, read_card

SIDE = 128
LANDMARKS = 68
EMBEDDING = 64

_EMBEDDED = files("cfpp.data").joinpath("embedded/probe")


class Probe(nn.Module):
    """Landmark and identity heads on one convolutional trunk; 0.7 million parameters.

    The landmarks are the expectation of one heat map each, at 32 x 32, so they are not tied to its grid.
    The embedding reads the trunk's 8 x 8 map with its layout kept: proportions are part of identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16, 2), _conv(16, 32, 2), Residual(32))
        self.middle = nn.Sequential(_conv(32, 48, 2), Residual(48), Residual(48))
        self.deep = nn.Sequential(_conv(48, 80, 2), Residual(80), Residual(80))
        self.deep_lateral = nn.Conv2d(80, 48, 1)
        self.stem_lateral = nn.Conv2d(32, 48, 1)
        self.fuse = nn.Sequential(_conv(48, 64, 1), Residual(64))
        self.heat = nn.Conv2d(64, LANDMARKS, 1)
        self.signature = nn.Sequential(_conv(80, 32, 1), nn.Flatten(), nn.Linear(32 * 8 * 8, EMBEDDING))

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks and identity of square faces.

        Args:
            faces: [B, 3, S, S] in [-1, 1], RGB, aligned; any S, resized to 128.

        Returns:
            Landmarks [B, 68, 2], (x, y) in pixels of the S x S face (pixel centres at whole numbers), and
            embeddings [B, 64] of length 1.
        """
        side = faces.shape[-1]
        if side != SIDE:
            faces = F.interpolate(
                faces, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=side > SIDE
            )
        fine = self.stem(faces)
        middle = self.middle(fine)
        deep = self.deep(middle)
        context = F.interpolate(self.deep_lateral(deep), scale_factor=2.0, mode="nearest") + middle
        context = F.interpolate(context, scale_factor=2.0, mode="bilinear", align_corners=False)
        heat = self.heat(self.fuse(context + self.stem_lateral(fine)))
        points = _expectation(heat.float())
        landmarks = (points + 0.5) * (side / heat.shape[-1]) - 0.5
        return landmarks, F.normalize(self.signature(deep), dim=1)


class Residual(nn.Module):
    """Two 3 x 3 convolutions and the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 1)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same shape."""
        return F.relu(x + self.second(self.first(x)))


def load_probe(folder: Path | None = None) -> Probe:
    """The trained probe, in evaluation mode and frozen.

    Args:
        folder: as `cfpp.models.weights.save_model` writes it; by default the one that comes with the package.

    Raises:
        WeightsError: missing, damaged or not a probe.
    """
    probe = Probe()
    with as_file(_EMBEDDED) as embedded:
        load_weights(probe, folder or embedded, "probe")
    return probe.requires_grad_(False).eval()


def probe_figures() -> Mapping[str, float]:
    """What the embedded probe reached on people that it had never seen, from its card."""
    with as_file(_EMBEDDED) as embedded:
        return read_card(embedded).metrics


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _expectation(heat: Tensor) -> Tensor:
    """Mean position (x, y), in cells, under the softmax of each map: [B, N, h, w] to [B, N, 2]."""
    weight = heat.flatten(2).softmax(dim=2).view_as(heat)
    cells = torch.arange(heat.shape[-1], dtype=heat.dtype, device=heat.device)
    rows = torch.arange(heat.shape[-2], dtype=heat.dtype, device=heat.device)
    return torch.stack([(weight.sum(2) * cells).sum(2), (weight.sum(3) * rows).sum(2)], dim=2)

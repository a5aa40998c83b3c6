"""The perceptual distance, used as a loss and as a metric.

As a loss: LPIPS (squeeze) when its backbone lies in `weights.root`; otherwise the normalised Laplacian
pyramid distance, a closed form without weights. As metrics: both, and LPIPS on AlexNet and VGG16. Nothing is
downloaded.
"""

import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.errors import MendableError
from cfpp.models.catalogue import LPIPS_ALEX, LPIPS_SQUEEZE, LPIPS_VGG
from cfpp.models.external import ExternalFile, find_external, load_state

log = logging.getLogger(__name__)

Backbone = Literal["alex", "vgg", "squeeze"]

LPIPS_FILES: Mapping[Backbone, tuple[ExternalFile, ...]] = {
    "alex": LPIPS_ALEX,
    "vgg": LPIPS_VGG,
    "squeeze": LPIPS_SQUEEZE,
}
"""The files that hold each backbone, the published one first."""

# Pixels a side; of a smaller picture the backbone's pooling leaves nothing to its last layers.
_LEAST_SIDE: Mapping[Backbone, int] = {"alex": 31, "vgg": 16, "squeeze": 17}


class PerceptualError(MendableError, ValueError):
    """Pictures too small for a distance; the message says how large they must be."""


class Perceptual(nn.Module, ABC):
    """A frozen distance between pictures: 0 for equal ones, larger is worse. Differentiable."""

    name: str

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair.

        Args:
            a: [B, 3, H, W] in [-1, 1], RGB.
            b: the same shape and range.

        Returns:
            [B], 0 or more, float32 (computed outside autocast).

        Raises:
            PerceptualError: pictures too small for it.
        """
        if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 3:
            raise ValueError(f"expected two [B, 3, H, W], found {tuple(a.shape)} and {tuple(b.shape)}")
        with torch.autocast(a.device.type, enabled=False):
            return self.distance(a.float(), b.float())

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """What `forward` computes, in float32."""

    def train(self, mode: bool = True) -> "Perceptual":
        """Stays in evaluation mode: LPIPS holds a dropout that would make the metric random."""
        return super().train(False)


class NLPD(Perceptual):
    """Normalised Laplacian pyramid distance (Laparra, Balle, Berardino, Simoncelli, 2016).

    Luminance (BT.601 weights, [0, 1]) is split in a Laplacian pyramid of at most six bands (binomial-like
    5 x 5 filter of Burt and Adelson, the last band is the low pass); each coefficient is divided by a
    constant plus the weighted magnitudes of its neighbours, with the constants that the paper fitted to
    natural images; the distance is the root mean square difference in each band, averaged over bands.
    Borders are mirrored. A picture below 64 pixels has fewer bands, since the last must be 2 pixels wide.
    """

    name = "NLPD"

    _FILTER = (0.05, 0.25, 0.4, 0.25, 0.05)
    # Per band, finest first: weights of the neighbours above, below, two to the left, left, right.
    _NEIGHBOURS = (
        (0.1015, 0.1011, 0.0072, 0.1460, 0.1493),
        (0.0837, 0.0757, 0.0, 0.1846, 0.1986),
        (0.0467, 0.0477, 0.0, 0.2243, 0.2138),
        (0.0, 0.0, 0.0, 0.2616, 0.2503),
        (0.0, 0.0, 0.0, 0.2552, 0.2598),
        (0.0, 0.0, 0.0, 0.0717, 0.2215),
    )
    _CONSTANTS = (0.0248, 0.0185, 0.0179, 0.0191, 0.0220, 0.2782)
    _LUMINANCE = (0.299, 0.587, 0.114)
    # Keeps the root's gradient finite where two bands are equal; moves a distance by at most 1e-5.
    _EPSILON = 1e-10

    lowpass: Tensor
    neighbours: Tensor
    luminance: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(self._FILTER)
        kernels = torch.zeros(len(self._NEIGHBOURS), 1, 5, 5)  # 4-D: `channels_last` takes no other
        for kernel, (up, down, far_left, left, right) in zip(kernels, self._NEIGHBOURS, strict=True):
            kernel[0, 1, 2], kernel[0, 3, 2] = up, down
            kernel[0, 2, 0], kernel[0, 2, 1], kernel[0, 2, 3] = far_left, left, right
        self.register_buffer("lowpass", torch.outer(taps, taps)[None, None], persistent=False)
        self.register_buffer("neighbours", kernels, persistent=False)
        self.register_buffer("luminance", torch.tensor(self._LUMINANCE).view(1, 3, 1, 1), persistent=False)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """[B]; see the class."""
        bands = self.bands(torch.cat([a, b]))
        total = torch.zeros(len(a), device=a.device)
        for band in bands:
            first, second = band.chunk(2)
            squares = (first - second).square().mean(dim=(1, 2, 3))
            total = total + (squares + self._EPSILON).sqrt() - math.sqrt(self._EPSILON)
        return total / len(bands)

    def bands(self, pictures: Tensor) -> list[Tensor]:
        """Normalised bands, finest first, each [B, 1, h, w], of pictures [B, 3, H, W] in [-1, 1]."""
        side = min(pictures.shape[-2:])
        count = min(len(self._CONSTANTS), int(math.log2(side)))
        if count < 2:
            raise PerceptualError(f"NLPD needs sides of 4 pixels or more, found {side}")
        current = ((pictures + 1) / 2 * self.luminance).sum(dim=1, keepdim=True)
        pyramid = []
        for _ in range(count - 1):
            smaller = _convolve(current, self.lowpass)[:, :, ::2, ::2]
            pyramid.append(current - self._expand(smaller, current.shape[-2:]))
            current = smaller
        pyramid.append(current)
        return [
            band / (constant + _convolve(band.abs(), kernel[None]))
            for band, constant, kernel in zip(pyramid, self._CONSTANTS, self.neighbours, strict=False)
        ]

    def _expand(self, band: Tensor, size: torch.Size) -> Tensor:
        spread = band.new_zeros(*band.shape[:2], *size)
        spread[:, :, ::2, ::2] = 4 * band
        return _convolve(spread, self.lowpass)


class LPIPS(Perceptual):
    """LPIPS 0.1 (Zhang et al. 2018), its backbone from a torchvision state dict.

    Args:
        backbone: alex, vgg or squeeze.
        state: state dict of torchvision's alexnet, vgg16 or squeezenet1_1 (keys `features.N...`; the
            classifier is unused).
        name: what reports call it.

    Raises:
        ValueError: `state` lacks tensors of the backbone.
    """

    def __init__(self, backbone: Backbone, state: dict[str, Tensor], name: str) -> None:
        super().__init__()
        import lpips  # ten seconds to import, and only needed with weights

        self.name = name
        self._least_side = _LEAST_SIDE[backbone]
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", UserWarning)
            # pnet_rand: no download; the random backbone is overwritten below, whole.
            self.net = lpips.LPIPS(net=backbone, pretrained=True, pnet_rand=True, verbose=False)
        # lpips calls torchvision's `features.N.x` by the slice that holds layer N: `sliceM.N.x`.
        wanted = self.net.net.state_dict()
        missing = [key for key in wanted if f"features.{key.partition('.')[2]}" not in state]
        if missing:
            raise ValueError(f"{name}: the file lacks {missing[0]} and {len(missing) - 1} more")
        self.net.net.load_state_dict({key: state[f"features.{key.partition('.')[2]}"] for key in wanted})
        self.requires_grad_(False)
        self.eval()

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """[B]; see the class."""
        if (side := min(a.shape[-2:])) < self._least_side:
            raise PerceptualError(
                f"{self.name} needs sides of {self._least_side} pixels or more, found {side}"
            )
        values: Tensor = self.net(a, b)
        return values.flatten()


def build_perceptual(weights_root: str) -> Perceptual:
    """LPIPS when its backbone lies in `weights_root`, else NLPD; `.name` says which.

    Raises:
        ParamsError, ExternalFileError: see `find_external`.
    """
    found = find_lpips(weights_root)
    chosen = found if found is not None else NLPD()
    log.info("perceptual distance: %s", chosen.name)
    return chosen


def perceptual_name(weights_root: str) -> str:
    """What `build_perceptual` would choose, without loading it.

    Raises:
        ParamsError, ExternalFileError: see `find_external`.
    """
    found = find_external(weights_root, LPIPS_FILES["squeeze"])
    return NLPD.name if found is None else found[1].label


def find_lpips(weights_root: str, backbone: Backbone = "squeeze") -> LPIPS | None:
    """LPIPS when its backbone lies in `weights_root`, else None.

    Raises:
        ParamsError, ExternalFileError: see `find_external` and `load_state`.
    """
    found = find_external(weights_root, LPIPS_FILES[backbone])
    if found is None:
        return None
    path, file = found
    return LPIPS(backbone, load_state(path), file.label)


def _convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlation with a 5 x 5 kernel, same size. Mirrored borders; edges repeated below 3 pixels."""
    mode = "reflect" if min(image.shape[-2:]) > 2 else "replicate"
    return F.conv2d(F.pad(image, (2, 2, 2, 2), mode=mode), kernel)

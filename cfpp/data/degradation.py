"""The degradation of the field: blur, downsample, noise, JPEG, resize back (method.md, section 2).

Ranges are stated in pixels of a 512 x 512 face. At another side they are scaled, so that the same
draw takes away the same share of the face: blur by side / 512, and the small picture keeps its
floor(512 / r) pixels (capped at the side).

`degradation_batch` does the same to a batch on any torch device.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfpp.config import DegradationRange
from cfpp.data.pictures import Picture

REFERENCE_SIDE = 512

DIRECT_KERNEL = 11
"""Largest kernel, pixels, that cv2 filters without a Fourier transform: too fast to improve on."""

PRODUCT_LIMIT = 1.0
"""Separable terms times small side over side above which `cv2.filter2D` takes less time."""

TERM_TOLERANCE = 4e-3
"""What separable terms may leave of a kernel, sum of absolute values: 0.5 of 255 in a pixel at worst."""

BLOCK_ROWS = 32
"""Rows of weights multiplied at once, about: the fewer, the less of the picture they span."""


@dataclass(frozen=True)
class Degradation:
    """One drawn degradation, in pixels of the reference side (512).

    Attributes:
        sigma_x, sigma_y: blur along the kernel's axes, pixels.
        theta: counter-clockwise rotation of those axes, radians.
        downsample: factor r; the small side is floor(512 / r).
        noise: standard deviation, of 255.
        jpeg: quality, 1 to 100.
    """

    sigma_x: float
    sigma_y: float
    theta: float
    downsample: float
    noise: float
    jpeg: int


def draw(limits: DegradationRange, rng: np.random.Generator) -> Degradation:
    """Draw one degradation: isotropic or anisotropic blur with probability 1/2 each, the rest uniform.

    Every call takes the same number of variates, so that what follows in `rng` does not depend on
    what was drawn.
    """
    anisotropic = bool(rng.random() < 0.5)
    sigma_x = rng.uniform(*limits.sigma)
    sigma_y = rng.uniform(*limits.sigma)
    theta = rng.uniform(-math.pi, math.pi)
    return Degradation(
        sigma_x=sigma_x,
        sigma_y=sigma_y if anisotropic else sigma_x,
        theta=theta if anisotropic else 0.0,
        downsample=rng.uniform(*limits.downsample),
        noise=rng.uniform(*limits.noise),
        jpeg=int(rng.integers(limits.jpeg[0], limits.jpeg[1], endpoint=True)),
    )


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, theta: float) -> NDArray[np.float64]:
    """Bivariate Gaussian on a centred grid, float64 [size, size], sum 1.

    Covariance U diag(sigma_x^2, sigma_y^2) U^T, U the counter-clockwise rotation by `theta` of the
    (x, y) = (column, row) axes. A sigma far below a pixel gives the identity kernel.
    """
    radius = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(radius, radius)
    along = (math.cos(theta) * x + math.sin(theta) * y) / sigma_x
    across = (-math.sin(theta) * x + math.cos(theta) * y) / sigma_y
    kernel: NDArray[np.float64] = np.exp(-0.5 * (along**2 + across**2))
    kernel /= kernel.sum()
    return kernel


def apply(
    picture: Picture,
    degradation: Degradation,
    rng: np.random.Generator,
    *,
    kernel_size: int = 41,
    size_reference: int = REFERENCE_SIDE,
) -> Picture:
    """Degrade a clean face.

    Args:
        picture: uint8 [S, S, 3] RGB.
        degradation: what was drawn.
        rng: source of the noise field; the only randomness here.
        kernel_size: side of the blur kernel at `size_reference`, pixels, odd.
        size_reference: side at which the degradation's pixels are stated.

    Returns:
        uint8 [S, S, 3] RGB.

    Raises:
        ValueError: the picture is not square.
    """
    side = picture.shape[0]
    if picture.shape != (side, side, 3):
        raise ValueError(f"expected a square picture [S, S, 3], found {picture.shape}")
    small = blur_and_shrink(
        picture,
        scaled_kernel(degradation, side, kernel_size, size_reference),
        small_side(degradation, side, size_reference),
    )
    small += rng.standard_normal(small.shape, dtype=np.float32) * np.float32(degradation.noise)
    squeezed = _jpeg(cv2.convertScaleAbs(np.clip(small, 0.0, 255.0)), degradation.jpeg)
    # Resized as floats: rounding happens once, at the end.
    back = cv2.resize(squeezed.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(back), dtype=np.uint8)


def scaled_kernel_size(kernel_size: int, scale: float) -> int:
    """Side of the kernel at another picture size: odd, at least 3 pixels, `kernel_size` at scale 1."""
    return max(3, 2 * math.floor(kernel_size * scale / 2) + 1)


def scaled_kernel(
    degradation: Degradation, side: int, kernel_size: int, size_reference: int
) -> NDArray[np.float64]:
    """The blur kernel of a degradation at another picture side, float64 [k, k], k odd, sum 1."""
    scale = side / size_reference
    return gaussian_kernel(
        scaled_kernel_size(kernel_size, scale),
        degradation.sigma_x * scale,
        degradation.sigma_y * scale,
        degradation.theta,
    )


def small_side(degradation: Degradation, side: int, size_reference: int) -> int:
    """Side of the small picture, pixels: floor(reference / r), at most the picture's own."""
    return max(1, min(side, math.floor(size_reference / degradation.downsample)))


def sample_positions(side: int, samples: int) -> NDArray[np.float64]:
    """Where a bilinear resize from `side` to `samples` pixels reads: [samples], 0 to side - 1, ascending."""
    return np.clip((np.arange(samples) + 0.5) * side / samples - 0.5, 0, side - 1)


def blur_and_shrink(picture: Picture, kernel: NDArray[np.float64], small: int) -> NDArray[np.float32]:
    """Blur with reflected borders, then resize bilinearly without antialiasing.

    The resize reads two rows and two columns of the blurred picture per small pixel, so the rest of
    it need not be made: both steps together are a product with short rows of weights from either
    side, summed over the kernel's separable terms. Where the kernel is small, or has so many terms, or
    the small picture so many pixels, that plain filtering takes less time, that is done.

    Args:
        picture: uint8 [S, S, 3].
        kernel: float64 [k, k], k odd, sum 1.
        small: side of the result, pixels, 1 to S.

    Returns:
        float32 [small, small, 3], 0 to 255 up to rounding.
    """
    if kernel.shape[0] > DIRECT_KERNEL:
        columns, rows = separable_terms(kernel)
        if len(columns) * small <= PRODUCT_LIMIT * picture.shape[0]:
            return _product(picture, columns, rows, small)
    blurred = cv2.filter2D(
        picture.astype(np.float32), -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101
    )
    return np.asarray(cv2.resize(blurred, (small, small), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def separable_terms(kernel: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows, float64 [terms, k] each, whose outer products sum to the kernel.

    Crosses through the largest entry left, until less than `TERM_TOLERANCE` is: one term where the
    axes are the picture's, more the thinner and the more oblique the kernel. The columns' absolute
    values sum to 1, and the sum of the kernel is kept.
    """
    rest = kernel
    found: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    while not found or np.abs(rest).sum() > TERM_TOLERANCE:
        y, x = divmod(int(np.abs(rest).argmax()), len(rest))
        size = np.abs(rest[:, x]).sum()
        found.append((rest[:, x] / size, rest[y] * size / rest[y, x]))
        rest = rest - np.outer(*found[-1])
    columns, rows = np.stack([column for column, _ in found]), np.stack([row for _, row in found])
    return columns, rows * kernel.sum() / (columns.sum(axis=1) @ rows.sum(axis=1))


def _product(
    picture: Picture, columns: NDArray[np.float64], rows: NDArray[np.float64], small: int
) -> NDArray[np.float32]:
    """`blur_and_shrink` for a kernel given as separable terms.

    Weights are rounded so that every sum is exact: of 8-bit pixels times 15-bit weights of absolute
    sum 1 in float32, of those sums times 20-bit weights in float64. Then the order of summing, hence the
    number of threads, changes no bit of the result.
    """
    side, (terms, size) = picture.shape[0], columns.shape
    before = size // 2
    # One pixel more after than before, for the second of the two samples.
    padded = cv2.copyMakeBorder(picture, before, before + 1, before, before + 1, cv2.BORDER_REFLECT_101)
    planes = torch.from_numpy(np.array(cv2.split(padded), dtype=np.float32))
    where = sample_positions(side, small)
    down = _weights(columns, where, side + size, bits=15).float()
    across = _weights(rows, where, side + size, bits=20)
    bounds = np.linspace(0, small, min(small, -(-terms * small // BLOCK_ROWS)) + 1, dtype=int)
    blocks = [
        (slice(first, end), slice(int(where[first]), int(where[end - 1]) + size + 1))
        for first, end in pairwise(bounds)
    ]
    strips = [
        (down[block, :, read].flatten(0, 1) @ planes[:, read]).unflatten(1, (-1, terms))
        for block, read in blocks
    ]
    tall = torch.cat(strips, dim=1)  # [3, small, terms, S + k]
    tiles = [
        tall[..., read].double().flatten(2) @ across[block, :, read].flatten(1).T for block, read in blocks
    ]
    return np.ascontiguousarray(torch.cat(tiles, dim=2).float().permute(1, 2, 0).numpy())


def _weights(terms: NDArray[np.float64], where: NDArray[np.float64], width: int, *, bits: int) -> Tensor:
    """Blur by each term, then sample between two pixels.

    Args:
        terms: [terms, k].
        where: [small], positions to sample, pixels of the picture before padding.
        width: pixels of the padded picture, S + k.
        bits: weights are multiples of 2 ** -bits.

    Returns:
        float64 [small, terms, width].
    """
    low = np.floor(where).astype(np.int64)
    part = (where - low)[:, None, None]
    taps = (1 - part) * np.pad(terms, ((0, 0), (0, 1))) + part * np.pad(terms, ((0, 0), (1, 0)))
    rounded = torch.from_numpy(np.rint(taps * 2.0**bits) / 2.0**bits)
    index = torch.from_numpy(low[:, None] + np.arange(taps.shape[2]))[:, None].expand(taps.shape)
    return torch.zeros((*taps.shape[:2], width), dtype=torch.float64).scatter_(2, index, rounded)


def _jpeg(picture: Picture, quality: int) -> Picture:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if decoded is None:
        raise ValueError(f"JPEG failed for a picture of shape {picture.shape}")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)

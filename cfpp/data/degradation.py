"""The degradation of the field: blur, downsample, noise, JPEG, resize back (method.md, section 2).

Ranges are stated in pixels of a 512 x 512 face. At another side they are scaled, so that the same
draw takes away the same share of the face: blur by side / 512, and the small picture keeps its
floor(512 / r) pixels (capped at the side).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cfpp.config import DegradationRange
from cfpp.data.pictures import Picture

REFERENCE_SIDE = 512


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
    scale = side / size_reference
    kernel = gaussian_kernel(
        scaled_kernel_size(kernel_size, scale),
        degradation.sigma_x * scale,
        degradation.sigma_y * scale,
        degradation.theta,
    )
    clean = picture.astype(np.float32) / 255.0
    blurred = cv2.filter2D(clean, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
    small_side = max(1, min(side, math.floor(size_reference / degradation.downsample)))
    small = cv2.resize(blurred, (small_side, small_side), interpolation=cv2.INTER_LINEAR)
    noise = rng.standard_normal(small.shape, dtype=np.float32) * (degradation.noise / 255.0)
    noisy = np.clip(small + noise, 0.0, 1.0)
    squeezed = _jpeg(np.rint(noisy * 255.0).astype(np.uint8), degradation.jpeg)
    # Resized as floats: rounding happens once, at the end.
    back = cv2.resize(squeezed.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(np.rint(back), 0, 255), dtype=np.uint8)


def scaled_kernel_size(kernel_size: int, scale: float) -> int:
    """Side of the kernel at another picture size: odd, at least 3 pixels, `kernel_size` at scale 1."""
    return max(3, 2 * math.floor(kernel_size * scale / 2) + 1)


def _jpeg(picture: Picture, quality: int) -> Picture:
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if decoded is None:
        raise ValueError(f"JPEG failed for a picture of shape {picture.shape}")
    return np.flip(np.asarray(decoded, dtype=np.uint8), axis=2)

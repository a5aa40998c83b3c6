"""What is measured on a picture against a reference, and what each figure means."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor

from cfpp.errors import MendableError

OUTER_EYE_CORNERS = (36, 45)
PSNR_CAP = 100.0


class MetricError(MendableError, ValueError):
    """Pictures on which a metric is not defined."""


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    `better` is "high", "low", or "one" (the closer to 1 the better). `against` is the reference picture, ""
    for a figure that needs none.
    """

    name: str
    title: str
    unit: str
    better: Literal["high", "low", "one"]
    against: str
    meaning: str


METRICS = (
    Metric("psnr", "PSNR", "dB", "high", "I_HQ", "Peak signal-to-noise ratio over RGB, at most 100 dB."),
    Metric("ssim", "SSIM", "", "high", "I_HQ", "Structural similarity, Gaussian window, mean over RGB."),
    Metric(
        "nlpd",
        "NLPD",
        "",
        "low",
        "I_HQ",
        "Normalised Laplacian pyramid distance: visible differences, without a trained network. "
        "Where no LPIPS backbone is at hand it is also what TGRN is trained to lower.",
    ),
    Metric("lpips", "LPIPS", "", "low", "I_HQ", "Learned perceptual distance, SqueezeNet backbone."),
    Metric("lpips_alex", "LPIPS (alex)", "", "low", "I_HQ", "Learned perceptual distance, AlexNet backbone."),
    Metric("lpips_vgg", "LPIPS (vgg)", "", "low", "I_HQ", "Learned perceptual distance, VGG16 backbone."),
    Metric("identity", "Identity", "cosine", "high", "I_HQ", "Cosine of the identity embeddings."),
    Metric(
        "angle", "Identity angle", "degrees", "low", "I_HQ", "Angle between the identity embeddings (Deg)."
    ),
    Metric(
        "texture",
        "Texture ratio",
        "",
        "one",
        "I_HQ",
        "High-frequency energy over that of I_HQ: below 1 too smooth, above 1 too rough.",
    ),
    Metric(
        "landmark_hq",
        "Landmarks to I_HQ",
        "% of inter-ocular",
        "low",
        "I_HQ",
        "Mean distance of 68 landmarks.",
    ),
    Metric(
        "landmark_id",
        "Landmarks to I_F",
        "% of inter-ocular",
        "low",
        "I_F",
        "Mean distance of 68 landmarks; for I_G and I_warp, what the alignment is for.",
    ),
    Metric("niqe", "NIQE", "", "low", "", "Distance from the statistics of natural pictures; no reference."),
    Metric("folded", "Folded flow", "% of pixels", "low", "", "Share of pixels where phi folds the picture."),
)


def psnr(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, over all pixels and channels.

    Args:
        pictures: uint8 [B, H, W, 3].
        references: the same shape.

    Returns:
        float64 [B], at most `PSNR_CAP`, which equal pictures reach.
    """
    _check_pair(pictures, references)
    error = pictures.astype(np.float64) - references.astype(np.float64)
    squares = np.square(error).mean(axis=(1, 2, 3))
    decibels: np.ndarray = 10 * np.log10(255.0**2 / np.maximum(squares, 1e-12))
    capped: np.ndarray = np.minimum(decibels, PSNR_CAP)
    return capped


def ssim(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004) by scikit-image, mean over RGB.

    Gaussian window 11 x 11 with sigma 1.5, K1 0.01, K2 0.03, population covariance, no padding: only
    places where the whole window fits count.

    Args:
        pictures: uint8 [B, H, W, 3], sides of 11 or more.
        references: the same shape.

    Returns:
        float64 [B] in [-1, 1].

    Raises:
        MetricError: pictures smaller than the window.
    """
    _check_pair(pictures, references)
    if min(pictures.shape[1:3]) < 11:
        raise MetricError(f"SSIM needs sides of 11 pixels or more, found {pictures.shape[1:3]}")
    return np.array(
        [
            structural_similarity(
                picture,
                reference,
                data_range=255,
                channel_axis=2,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for picture, reference in zip(pictures, references, strict=True)
        ],
        dtype=np.float64,
    )


def texture_ratio(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """High-frequency energy of each picture divided by that of its reference.

    Energy = variance of luminance (BT.601) minus its Gaussian blur with sigma = side / 64, so the same
    share of the face counts at every size. 1 is as much of it as the reference has, whether or not in the
    right place, and whether or not it is detail: noise and the blocks of JPEG count as well, so that the
    figure is to be read beside a perceptual distance. It falls slowly with blur: of photographs of 512
    pixels a Gaussian of sigma 1, 2, 3 pixels leaves 0.78, 0.55, 0.39; JPEG of quality 10 leaves 0.89 to 1.04.

    Args:
        pictures: uint8 [B, S, S, 3].
        references: the same shape; must not be flat.

    Returns:
        float64 [B], 0 or more.

    Raises:
        MetricError: a flat reference.
    """
    _check_pair(pictures, references)
    energy = _high_energy(pictures)
    reference = _high_energy(references)
    if (flat := reference < 1e-9).any():
        raise MetricError(
            f"reference {int(flat.argmax())} of {len(flat)} is flat: it has no texture to compare with"
        )
    ratio: np.ndarray = energy / reference
    return ratio


def landmark_error(points: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Mean distance of the landmarks in % of the reference's inter-ocular distance.

    Inter-ocular: between the outer eye corners (points 36 and 45 of the 68) of the reference.

    Args:
        points: [B, 68, 2], (x, y) pixels.
        references: the same shape.

    Returns:
        float64 [B], percent.
    """
    if points.shape != references.shape or points.shape[1:] != (68, 2):
        raise ValueError(f"expected two [B, 68, 2], found {points.shape} and {references.shape}")
    first, second = OUTER_EYE_CORNERS
    span = np.linalg.norm(references[:, first] - references[:, second], axis=1)
    distance: np.ndarray = np.linalg.norm(points - references, axis=2).mean(axis=1)
    percent: np.ndarray = 100 * distance / span
    return percent


def _check_pair(pictures: np.ndarray, references: np.ndarray) -> None:
    if pictures.shape != references.shape or pictures.ndim != 4 or pictures.shape[3] != 3:
        raise ValueError(f"expected two [B, H, W, 3], found {pictures.shape} and {references.shape}")
    if pictures.dtype != np.uint8 or references.dtype != np.uint8:
        raise ValueError(f"expected uint8 pictures, found {pictures.dtype} and {references.dtype}")


def _gaussian(sigma: float, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    return weights / weights.sum()


def _blur(planes: Tensor, window: Tensor) -> Tensor:
    """Separable filter of [B, C, H, W] without padding."""
    channels, taps = planes.shape[1], len(window)
    across = window.view(1, 1, 1, taps).expand(channels, 1, 1, taps)
    down = window.view(1, 1, taps, 1).expand(channels, 1, taps, 1)
    return F.conv2d(F.conv2d(planes, across, groups=channels), down, groups=channels)


def _high_energy(pictures: np.ndarray) -> np.ndarray:
    weights = np.array([0.299, 0.587, 0.114])
    luminance = torch.from_numpy(pictures.astype(np.float64) @ weights)[:, None]
    sigma = pictures.shape[1] / 64
    radius = max(1, round(3 * sigma))
    padded = F.pad(luminance, (radius,) * 4, mode="reflect")
    detail = luminance - _blur(padded, _gaussian(sigma, radius))
    energy: np.ndarray = detail.var(dim=(1, 2, 3), correction=0).numpy()
    return energy

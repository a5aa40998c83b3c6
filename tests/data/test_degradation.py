"""The degradation against the reference's kernels and a slow plain version."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cfpp.config import DegradationRange
from cfpp.data.degradation import Degradation, apply, draw, gaussian_kernel, scaled_kernel_size
from cfpp.data.draws import generator
from cfpp.data.pictures import Picture

LARGE = DegradationRange(sigma=(1.0, 15.0), downsample=(4.0, 30.0), noise=(0.0, 20.0), jpeg=(30, 80))
CLEAN = Degradation(sigma_x=0.01, sigma_y=0.01, theta=0.0, downsample=1.0, noise=0.0, jpeg=100)


def face(side: int) -> Picture:
    """Blobs with some detail, unlike in the three channels."""
    y, x = np.mgrid[0:side, 0:side] / side
    base = [np.sin(9 * x + 3 * c) * np.cos(7 * y - c) + 0.4 * np.sin(40 * x * y + c) for c in range(3)]
    return np.clip(128 + 80 * np.stack(base, axis=2), 0, 255).astype(np.uint8)


def test_kernels_are_the_references(shared: Path) -> None:
    case = np.load(shared / "codeformer/parity/gaussian_kernels.npz")
    for sigma, kernel in zip(case["in/iso_sigma"], case["out/iso"], strict=True):
        np.testing.assert_allclose(gaussian_kernel(41, sigma, sigma, 0.0), kernel, atol=1e-15)
    for (sigma_x, sigma_y, theta), kernel in zip(
        case["in/aniso_sigx_sigy_theta"], case["out/aniso"], strict=True
    ):
        np.testing.assert_allclose(gaussian_kernel(41, sigma_x, sigma_y, theta), kernel, atol=1e-15)


def plain_blur(image: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    radius = kernel.shape[0] // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    out = np.zeros_like(image)
    for dy in range(kernel.shape[0]):
        for dx in range(kernel.shape[1]):
            out += kernel[dy, dx] * padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
    return out


def plain_resize(image: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Bilinear without antialiasing, pixel centres at (i + 0.5) * scale - 0.5, border repeated."""
    old = image.shape[0]
    where = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    low = np.minimum(np.floor(where).astype(int), old - 2) if old > 1 else np.zeros(side, int)
    part = (where - low)[:, None, None]
    high = np.minimum(low + 1, old - 1)
    rows = image[low] * (1 - part) + image[high] * part
    across = rows.transpose(1, 0, 2)
    return (across[low] * (1 - part) + across[high] * part).transpose(1, 0, 2)


def plain_apply(picture: Picture, given: Degradation, rng: np.random.Generator) -> Picture:
    side = picture.shape[0]
    scale = side / 512
    kernel = gaussian_kernel(
        2 * int(41 * scale / 2) + 1, given.sigma_x * scale, given.sigma_y * scale, given.theta
    )
    small_side = min(side, math.floor(512 / given.downsample))
    small = plain_resize(plain_blur(picture / 255.0, kernel), small_side)
    small = small + rng.standard_normal(small.shape, dtype=np.float32) * given.noise / 255.0
    stream = io.BytesIO()
    rounded = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(rounded).save(stream, "JPEG", quality=given.jpeg, subsampling="4:2:0")
    squeezed = np.asarray(Image.open(stream), dtype=np.float64)
    return np.clip(np.rint(plain_resize(squeezed, side)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("number", range(4))
def test_against_the_plain_version(side: int, number: int) -> None:
    picture = face(side)
    given = draw(LARGE, generator(0, "test", number))
    ours = apply(picture, given, generator(1, number))
    plain = plain_apply(picture, given, generator(1, number))
    difference = np.abs(ours.astype(float) - plain)
    # Two JPEG codecs and float32 against float64: a level here and there, never a shift or a gain.
    assert difference.mean() < 0.75
    assert np.abs(ours.astype(float) - picture).mean() > 5  # and it does degrade


def test_nothing_drawn_means_nothing_lost() -> None:
    picture = face(64)
    assert np.abs(apply(picture, CLEAN, generator(0)).astype(float) - picture).mean() < 2.5  # JPEG at 100


def test_blur_alone_keeps_the_mean_and_noise_has_its_deviation() -> None:
    flat = np.full((512, 512, 3), 128, np.uint8)
    noisy = apply(flat, Degradation(1.0, 1.0, 0.0, 1.0, 10.0, 100), generator(3)).astype(float)
    assert abs(noisy.mean() - 128) < 0.2
    luminance = noisy @ np.array([0.299, 0.587, 0.114])  # which the codec does not subsample
    assert abs(luminance.std() - 10 * math.hypot(0.299, 0.587, 0.114)) < 0.2


def test_the_same_draw_takes_the_same_share_at_any_side() -> None:
    given = Degradation(sigma_x=12.0, sigma_y=4.0, theta=0.7, downsample=16.0, noise=0.0, jpeg=95)
    at_128 = apply(face(128), given, generator(0)).astype(float)
    at_512 = apply(face(512), given, generator(0)).astype(float)
    shrunk = at_512.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    assert np.abs(at_128 - shrunk).mean() < 4
    assert [scaled_kernel_size(41, side / 512) for side in (64, 128, 256, 512)] == [5, 11, 21, 41]


def test_draws_stay_in_range_and_cover_it() -> None:
    drawn = [draw(LARGE, generator(0, "degradation", f"key{i}", 0)) for i in range(4000)]
    for name, (low, high) in {
        "sigma_x": LARGE.sigma,
        "sigma_y": LARGE.sigma,
        "downsample": LARGE.downsample,
        "noise": LARGE.noise,
        "jpeg": LARGE.jpeg,
    }.items():
        values = np.array([getattr(item, name) for item in drawn], dtype=float)
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        # Uniform: the mean within five standard errors of the middle.
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 4000)
    isotropic = [item for item in drawn if item.sigma_x == item.sigma_y]
    assert abs(len(isotropic) / 4000 - 0.5) < 0.04
    assert all(item.theta == 0 for item in isotropic)
    angles = np.array([item.theta for item in drawn if item.sigma_x != item.sigma_y])
    assert angles.min() < -3
    assert angles.max() > 3
    assert abs(angles.mean()) < 0.25
    assert {item.jpeg for item in drawn} == set(range(30, 81))


def test_a_picture_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        apply(np.zeros((64, 32, 3), np.uint8), CLEAN, generator(0))

"""Each figure against a closed form or someone else's implementation."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

from cfpp.evaluation.metrics import PSNR_CAP, MetricError, landmark_error, psnr, ssim, texture_ratio


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.standard_normal((4, 80, 80, 3)), (0, 4, 4, 0))
    clean = np.clip(128 + 400 * smooth, 0, 255)
    other = np.clip(clean + rng.normal(0, [[[[5]]], [[[10]]], [[[20]]], [[[40]]]], clean.shape), 0, 255)
    return clean.astype(np.uint8), other.astype(np.uint8)


def test_psnr_of_a_constant_difference_is_its_closed_form() -> None:
    grey = np.full((1, 16, 16, 3), 100, np.uint8)
    assert psnr(grey, grey + 10)[0] == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(grey, grey)[0] == PSNR_CAP


def test_psnr_equals_scikit_image(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    clean, other = pictures
    expected = [peak_signal_noise_ratio(c, o) for c, o in zip(clean, other, strict=True)]
    assert psnr(other, clean) == pytest.approx(expected, abs=1e-9)


def slow_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Wang et al. 2004 written out: one channel, every place where the whole window fits."""
    ramp = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weights = np.outer(ramp, ramp) / ramp.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for x, y in zip(
        *(sliding_window_view(p.astype(float), (11, 11)).reshape(-1, 11, 11) for p in (first, second)),
        strict=True,
    ):
        mx, my = (weights * x).sum(), (weights * y).sum()
        vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
        cov = (weights * (x - mx) * (y - my)).sum()
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def test_ssim_equals_its_definition(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    clean, other = (batch[:, 20:52, 10:45] for batch in pictures)
    expected = [
        np.mean([slow_ssim(c[..., channel], o[..., channel]) for channel in range(3)])
        for c, o in zip(clean, other, strict=True)
    ]
    assert ssim(other, clean) == pytest.approx(expected, abs=1e-9)
    assert (np.diff(ssim(*pictures)) < 0).all()
    assert ssim(clean, clean) == pytest.approx(1)
    with pytest.raises(MetricError, match="11 pixels"):
        ssim(clean[:, :10], other[:, :10])


def test_texture_ratio_is_one_for_equal_and_the_square_of_contrast(
    pictures: tuple[np.ndarray, np.ndarray],
) -> None:
    clean, _ = pictures
    assert texture_ratio(clean, clean) == pytest.approx(1)
    rng = np.random.default_rng(0)
    grain = rng.integers(-40, 41, (1, 64, 64, 1)).repeat(3, axis=3)
    weak, strong = (np.uint8(128) + grain).astype(np.uint8), (np.uint8(128) + 2 * grain).astype(np.uint8)
    assert texture_ratio(strong, weak)[0] == pytest.approx(4)


def test_texture_ratio_falls_with_blur_and_rises_with_grain(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pictures
    blurred = [ndimage.gaussian_filter(noisy[3:], (0, s, s, 0)) for s in (0.5, 1, 2, 4)]
    ratios = [texture_ratio(blur, noisy[3:])[0] for blur in blurred]
    assert (np.diff([1, *ratios]) < 0).all()
    assert (texture_ratio(noisy, clean) > 1).all()


def test_texture_ratio_is_the_same_at_every_size() -> None:
    rng = np.random.default_rng(2)
    base = np.kron(rng.integers(0, 256, (1, 64, 64, 1)), np.ones((1, 1, 1, 3))).astype(np.uint8)
    soft = ndimage.gaussian_filter(base, (0, 1, 1, 0))
    small = texture_ratio(soft, base)[0]
    large = texture_ratio(soft.repeat(2, 1).repeat(2, 2), base.repeat(2, 1).repeat(2, 2))[0]
    assert large == pytest.approx(small, rel=0.15)


def test_texture_ratio_by_scipys_filter(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    def energy(picture: np.ndarray) -> float:
        luminance = picture.astype(float) @ (0.299, 0.587, 0.114)
        sigma = len(picture) / 64
        radius = max(1, round(3 * sigma))
        return float(
            (luminance - ndimage.gaussian_filter(luminance, sigma, mode="mirror", radius=radius)).var()
        )

    clean, noisy = pictures
    expected = [energy(a) / energy(b) for a, b in zip(noisy, clean, strict=True)]
    assert texture_ratio(noisy, clean) == pytest.approx(expected, rel=1e-6)


def test_a_flat_reference_is_refused() -> None:
    flat = np.full((2, 64, 64, 3), 7, np.uint8)
    flat[0, ::2] = 9
    with pytest.raises(MetricError, match="reference 1 of 2 is flat"):
        texture_ratio(flat, flat)


def test_landmark_error_of_a_shift_is_its_share_of_the_outer_eye_distance() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 128, (2, 68, 2))
    points[:, 36], points[:, 45] = (30, 50), (90, 50)
    shifted = points + np.array([3.0, 4.0])
    assert landmark_error(shifted, points) == pytest.approx([100 * 5 / 60] * 2)
    assert landmark_error(3 * shifted, 3 * points) == pytest.approx([100 * 5 / 60] * 2)
    with pytest.raises(ValueError, match="68"):
        landmark_error(points[:, :5], points[:, :5])


def test_pairs_that_do_not_fit_are_refused() -> None:
    good = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="B, H, W, 3"):
        psnr(good, good[:, :8])
    with pytest.raises(ValueError, match="uint8"):
        ssim(good.astype(float), good.astype(float))

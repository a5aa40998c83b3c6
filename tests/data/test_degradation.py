"""The degradation against the reference's kernels and a slow plain version."""

import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cfpp.config import DegradationRange
from cfpp.data.degradation import (
    DIRECT_KERNEL,
    PRODUCT_LIMIT,
    Degradation,
    apply,
    blur_and_shrink,
    draw,
    gaussian_kernel,
    scaled_kernel,
    scaled_kernel_size,
    separable_terms,
    small_side,
)
from cfpp.data.draws import generator
from cfpp.data.pictures import Picture
from cfpp.data.procedural import render
from tests.data.distribution import assert_same_distribution, statistics

LARGE = DegradationRange(sigma=(1.0, 15.0), downsample=(4.0, 30.0), noise=(0.0, 20.0), jpeg=(30, 80))
SMALL = DegradationRange(sigma=(0.1, 10.0), downsample=(1.0, 12.0), noise=(0.0, 15.0), jpeg=(60, 100))
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


def plain_small(picture: Picture, given: Degradation) -> NDArray[np.float32]:
    """The recipe word by word, for sides at which the loops above take too long: 0 to 255, no noise."""
    side = len(picture)
    scale = side / 512
    size = max(3, 2 * int(41 * scale / 2) + 1)
    kernel = gaussian_kernel(size, given.sigma_x * scale, given.sigma_y * scale, given.theta)
    clean = picture.astype(np.float32) / 255
    blurred = cv2.filter2D(clean, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
    small = min(side, math.floor(512 / given.downsample))
    return cv2.resize(blurred, (small, small), interpolation=cv2.INTER_LINEAR) * 255


def plain_recipe(picture: Picture, given: Degradation, rng: np.random.Generator) -> Picture:
    small = plain_small(picture, given) / 255
    noisy = np.clip(small + rng.standard_normal(small.shape, dtype=np.float32) * given.noise / 255, 0, 1)
    rounded = np.rint(noisy * 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", rounded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, given.jpeg])
    squeezed = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)
    back = cv2.resize(squeezed, picture.shape[:2], interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(back), 0, 255).astype(np.uint8)


def ours_small(picture: Picture, given: Degradation) -> NDArray[np.float32]:
    side = len(picture)
    return blur_and_shrink(picture, scaled_kernel(given, side, 41, 512), small_side(given, side, 512))


def by_product(side: int, given: Degradation) -> bool:
    """Whether the kernel is applied term by term."""
    kernel = scaled_kernel(given, side, 41, 512)
    terms = len(separable_terms(kernel)[0])
    return len(kernel) > DIRECT_KERNEL and terms * small_side(given, side, 512) <= PRODUCT_LIMIT * side


@pytest.mark.parametrize("limits", [LARGE, SMALL])
@pytest.mark.parametrize(("side", "count"), [(64, 20), (128, 20), (256, 40), (512, 20)])
def test_blur_and_shrink_is_the_plain_one_but_for_rounding(
    side: int, count: int, limits: DegradationRange
) -> None:
    picture = render(0, 1, 0, side).picture
    drawn = [draw(limits, generator(0, "small", number)) for number in range(count)]
    for given in drawn:
        difference = np.abs(ours_small(picture, given) - plain_small(picture, given))
        assert difference.max() < 0.6
        assert difference.mean() < 0.05
    if side > 128:
        assert sum(by_product(side, given) for given in drawn) > count / 2


def test_what_plain_filtering_is_left_with() -> None:
    assert by_product(512, Degradation(5.0, 5.0, 0.0, 1.0, 0.0, 90))
    assert not by_product(512, Degradation(1.0, 15.0, 0.8, 4.0, 0.0, 90))  # a thin oblique line
    assert not by_product(128, Degradation(5.0, 5.0, 0.0, 4.0, 0.0, 90))


def test_separable_terms_sum_to_the_kernel() -> None:
    for number in range(30):
        kernel = scaled_kernel(draw(LARGE, generator(0, "terms", number)), 512, 41, 512)
        columns, rows = separable_terms(kernel)
        assert np.abs(columns.T @ rows - kernel).sum() < 8e-3
        assert (columns.T @ rows).sum() == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(np.abs(columns).sum(axis=1), 1)
    assert len(separable_terms(gaussian_kernel(41, 7.0, 2.0, 0.0))[0]) == 1


@pytest.mark.parametrize("limits", [LARGE, SMALL])
def test_the_distribution_is_the_plain_recipes(limits: DegradationRange) -> None:
    faces = [render(0, identity, 0, 256).picture for identity in range(4)]
    drawn = [draw(limits, generator(0, "statistics", number)) for number in range(80)]
    ours, plain = (
        np.array(
            [
                statistics(degrade(faces[i % 4], given, generator(1, i)), faces[i % 4])
                for i, given in enumerate(drawn)
            ]
        )
        for degrade in (apply, plain_recipe)
    )
    assert_same_distribution(drawn, ours, plain, of_means=0.05)


def test_no_number_of_threads_changes_a_byte() -> None:
    faces = [render(0, 2, 0, side).picture for side in (256, 512)]
    cases = [
        (face, draw(limits, generator(0, "threads", number)), number)
        for face in faces
        for limits in (LARGE, SMALL)
        for number in range(6)
    ]
    before = torch.get_num_threads(), cv2.getNumThreads()
    made = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
            made.append(
                [
                    ours_small(face, given).tobytes() + apply(face, given, generator(number)).tobytes()
                    for face, given, number in cases
                ]
            )
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    assert made[0] == made[1] == made[2]


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

"""Alignment against closed forms, scikit-image, and faces whose landmarks and place are known."""

import cv2
import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from cfpp.data.align import GROUND, AlignError, align, scaled_template, similarity_transform
from cfpp.data.procedural.render import render


def turned(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The similarity [2, 3] of an angle (radians), a scale and a shift (pixels)."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def back(matrix: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.invertAffineTransform(matrix))


def colour(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture of 512 x 512 as a function, [H, W, 3]."""
    red, green = np.sin(x / 31 + 0.3 * np.cos(y / 47)), np.cos(y / 29 + 0.2)
    return np.stack([128 + 90 * red, 128 + 90 * green, 128 + 60 * np.sin((x + y) / 53)], axis=-1)


def test_the_similarity_is_the_known_one_and_otherwise_the_nearest() -> None:
    rng = np.random.default_rng(0)
    source = rng.uniform(0, 900, (5, 2))
    matrix = turned(0.7, 0.4, (-30, 210))
    np.testing.assert_allclose(similarity_transform(source, moved(matrix, source)), matrix, atol=1e-10)
    noisy = moved(matrix, source) + rng.normal(0, 5, (5, 2))
    expected = SimilarityTransform.from_estimate(source, noisy).params[:2]
    np.testing.assert_allclose(similarity_transform(source, noisy), expected, atol=1e-8)


@pytest.mark.parametrize("size", [128, 512])
@pytest.mark.parametrize("scale", [0.1, 0.37, 0.5, 0.8, 1.0, 1.5])
def test_every_scale_gives_the_picture_in_its_place(scale: float, size: int) -> None:
    side = min(1200, round(1.7 * size / scale))
    middle = np.array([side / 2 + 3.3, side / 2 - 5.1])
    there = turned(0.3, scale, (0, 0))
    there[:, 2] = size / 2 - 0.5 - there[:, :2] @ middle
    y, x = np.mgrid[:side, :side].astype(np.float64)
    own = moved(there, np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(side, side, 2)
    unit = 512 / size
    photograph = np.rint(colour(own[..., 0] * unit, own[..., 1] * unit)).astype(np.uint8)
    face, matrix = align(photograph, moved(back(there), scaled_template(size)), size)
    np.testing.assert_allclose(matrix, there, atol=1e-8)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    inside = moved(back(there), np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(size, size, 2)
    edge = 4 / min(scale, 1)  # nearer to it the ground mixes in
    inside = ((inside > edge) & (inside < side - 1 - edge)).all(axis=-1)
    assert inside.mean() > 0.02
    error = np.abs(face - colour(x * unit, y * unit))[inside]
    assert error.mean() < 0.6
    assert error.max() < 3


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shrinking_takes_the_mean_over_the_area(factor: int) -> None:
    size = 64
    noise = np.random.default_rng(1).integers(0, 256, (size * factor, size * factor, 3), dtype=np.uint8)
    points = (scaled_template(size) + 0.5) * factor - 0.5
    face, _ = align(noise, points, size)
    means = noise.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
    assert np.abs(face[2:-2, 2:-2] - means[2:-2, 2:-2]).max() <= 1.01  # two roundings


def test_a_procedural_face_comes_back_from_where_it_was_put() -> None:
    face = render(0, 3, 1, 256)
    there = turned(-0.4, 1.6, (420, 130))
    canvas = cv2.warpAffine(face.picture, there, (900, 800), flags=cv2.INTER_CUBIC, borderValue=GROUND)
    truth = moved(there, face.landmarks5)
    found, matrix = align(canvas, truth, 256)
    # the renderer aligns its faces by their own landmarks as well
    assert np.linalg.norm(moved(matrix, truth) - face.landmarks5, axis=1).mean() < 1e-6 * 256 + 0.5
    expected = cv2.warpAffine(face.picture, matrix @ np.vstack([there, [0, 0, 1]]), (256, 256))
    middle = slice(40, -40)
    error = found[middle, middle].astype(float) - expected[middle, middle]
    assert 10 * np.log10(255**2 / np.square(error).mean()) > 32


def test_beyond_the_photograph_lies_the_ground() -> None:
    white = np.full((300, 300, 3), 255, np.uint8)
    face, matrix = align(white, scaled_template(128) * 0.9 + (-40, 0), 128)
    where = moved(back(matrix), np.array([[x, y] for y in range(128) for x in range(128)], float))
    outside = (where[:, 0] < -3).reshape(128, 128)
    assert outside.any()
    assert (face[outside] == GROUND).all()
    assert (face[(where[:, 0] > 3).reshape(128, 128) & (where[:, 1] > 3).reshape(128, 128)] == 255).all()


def test_the_ground_is_that_of_facexlib() -> None:
    # facexlib/utils/face_restoration_helper.py, borderValue, of pictures in BGR
    assert GROUND[::-1] == (135, 133, 132)


def test_a_photograph_wider_than_opencv_warps_is_aligned() -> None:
    long = np.zeros((200, 40_000, 3), np.uint8)
    long[:, 39_000:] = 200
    face, _ = align(long, np.add(scaled_template(128), (39_400, 20)), 128)
    assert (face == 200).all()


def test_what_fixes_no_transform_is_refused() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    with pytest.raises(AlignError, match="coincide"):
        align(picture, np.full((5, 2), 7.0))
    with pytest.raises(AlignError, match="not finite"):
        align(picture, np.full((5, 2), np.nan))
    with pytest.raises(AlignError, match="beside the photograph of 100 x 100"):
        align(picture, scaled_template(64) + 5000, 64)

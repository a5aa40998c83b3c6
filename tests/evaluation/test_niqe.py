"""NIQE against scipy, slow plain versions, closed forms and BasicSR's figures."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.special
import scipy.stats

from cfpp.data.procedural import render
from cfpp.evaluation.niqe import (
    Niqe,
    NiqeError,
    block_features,
    distance,
    fit_aggd,
    luminance,
    mscn,
    picture_features,
)

# What niqe() of BasicSR 1.4.2 gives for the rounded Y of its to_y_channel(), with the arrays of `parameters`,
# of the pictures of `test_figures_are_basicsr_s`.
BASICSR = (22.944296669094488, 19.588600055023345, 22.42825117385477, 19.05021980320523)


def parameters() -> dict[str, np.ndarray]:
    """A made-up parameter file: any mean, covariance and window will do to compare two programmes."""
    steps, offsets = np.arange(36), np.arange(-3, 4)
    gaussian = np.exp(-0.5 * (offsets / (7 / 6)) ** 2)
    gaussian /= gaussian.sum()
    return {
        "mu_pris_param": (0.3 + 0.5 * np.sin(steps) ** 2)[None],
        "cov_pris_param": 0.02 * np.exp(-np.abs(steps[:, None] - steps) / 4) + 0.01 * np.eye(36),
        "gaussian_window": np.outer(gaussian, gaussian),
    }


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """uint8 [512, 512, 3]."""
    return render(0, 1, 0, 512).picture


@pytest.fixture(scope="module")
def niqe(tmp_path_factory: pytest.TempPathFactory) -> Niqe:
    path = tmp_path_factory.mktemp("niqe") / "niqe_pris_params.npz"
    np.savez(path, **parameters())
    return Niqe.load(path)


def test_figures_are_basicsr_s(niqe: Niqe, face: np.ndarray) -> None:
    second, third = (render(0, identity, 0, 512).picture for identity in (2, 3))
    # 700 pixels: seven blocks of 96 and a rest; 256: enlarged, as BasicSR's input was by OpenCV.
    large = np.pad(third, ((94, 94), (94, 94), (0, 0)), mode="reflect")
    small = render(0, 4, 0, 256).picture
    found = [*niqe.measure(np.stack([face, second])), *niqe.measure(large[None]), *niqe.measure(small[None])]
    np.testing.assert_allclose(found, BASICSR, atol=1e-3)


def test_it_sees_blur_and_noise(niqe: Niqe, real_faces: tuple[np.ndarray, np.ndarray]) -> None:
    faces = real_faces[0][:6]
    own = [picture_features(face, niqe.window) for face in faces]
    natural = Niqe(
        np.mean([f.mean(axis=0) for f in own], axis=0), np.cov(np.concatenate(own), rowvar=False), niqe.window
    )
    blurred = np.stack([cv2.GaussianBlur(face, (0, 0), 3) for face in faces])
    noise = np.random.default_rng(0).normal(0, 20, faces.shape)
    noisy = np.clip(faces + noise, 0, 255).astype(np.uint8)
    assert (natural.measure(faces) < natural.measure(blurred)).all()
    assert (natural.measure(faces) < natural.measure(noisy)).all()


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("right", [1.0, 3.0])
def test_fit_finds_the_shape_and_scales_that_samples_were_drawn_with(shape: float, right: float) -> None:
    """An AGGD is half a generalised normal on either side, with weights as the scales."""
    left = 1.5
    rng = np.random.default_rng(7)
    size = np.abs(scipy.stats.gennorm.rvs(shape, size=400_000, random_state=rng))
    below = rng.random(len(size)) < left / (left + right)
    samples = np.where(below, -left * size, right * size)
    found = fit_aggd(samples.reshape(1, -1))
    assert found.shape[0] == pytest.approx(shape, rel=0.03)
    assert found.left[0] == pytest.approx(left, rel=0.05)
    assert found.right[0] == pytest.approx(right, rel=0.05)
    assert found.mean[0] == pytest.approx(samples.mean(), abs=0.05 * right)


def test_fit_is_the_nearest_of_the_table() -> None:
    samples = np.random.default_rng(1).standard_t(5, (4, 300))
    samples[2] = samples[2] ** 3  # heavy tails
    found = fit_aggd(samples)
    shapes = np.arange(0.2, 10.001, 0.001)
    gamma = scipy.special.gamma
    table = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    for index, row in enumerate(samples):
        left = np.sqrt(np.mean(row[row < 0] ** 2))
        right = np.sqrt(np.mean(row[row > 0] ** 2))
        ratio = left / right
        moments = np.abs(row).mean() ** 2 / np.mean(row**2)
        moments *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
        alpha = shapes[np.argmin((table - moments) ** 2)]
        scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
        assert found.shape[index] == pytest.approx(alpha, abs=1e-9)
        assert found.left[index] == pytest.approx(left * scale)
        assert found.right[index] == pytest.approx(right * scale)
        mean = (right - left) * scale * gamma(2 / alpha) / gamma(1 / alpha)
        assert found.mean[index] == pytest.approx(mean, abs=1e-12)


def test_coefficients_are_those_of_a_plain_loop() -> None:
    plane = np.random.default_rng(2).integers(16, 236, (20, 13)).astype(np.float64)
    window = parameters()["gaussian_window"]
    found = mscn(plane, window)
    padded = np.pad(plane, 3, mode="edge")
    for row in range(20):
        for column in range(13):
            patch = padded[row : row + 7, column : column + 7]
            mean = (patch * window).sum()
            deviation = np.sqrt((patch**2 * window).sum() - mean**2)
            expected = (plane[row, column] - mean) / (deviation + 1)
            assert found[row, column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 16.0, 77.0, 235.0])
def test_a_flat_area_has_no_coefficients(value: float) -> None:
    assert not mscn(np.full((9, 9), value), parameters()["gaussian_window"]).any()


def test_block_features_pair_each_pixel_with_its_neighbours() -> None:
    block = np.random.default_rng(3).normal(size=(1, 12, 10))
    found = block_features(block)[0]
    offsets = ((0, -1), (-1, 0), (-1, -1), (-1, 1))
    for index, (down, across) in enumerate(offsets):
        products = [
            block[0, r, c] * block[0, (r + down) % 12, (c + across) % 10]
            for r in range(12)
            for c in range(10)
        ]
        pair = fit_aggd(np.array(products)[None])
        expected = [pair.shape[0], pair.mean[0], pair.left[0], pair.right[0]]
        np.testing.assert_allclose(found[2 + 4 * index : 6 + 4 * index], expected)
    own = fit_aggd(block.reshape(1, -1))
    np.testing.assert_allclose(found[:2], [own.shape[0], (own.left[0] + own.right[0]) / 2])


def test_luminance_is_that_of_opencv_within_its_rounding() -> None:
    """MATLAB's Y is 16 + 219 / 255 times the full-range BT.601 luminance."""
    picture = np.random.default_rng(4).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    full = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2GRAY)
    found = luminance(picture)
    assert np.abs(found - (16 + full * 219 / 255)).max() < 0.52
    assert luminance(np.array([[0, 0, 0], [255, 255, 255]], np.uint8)).tolist() == [16.0, 235.0]
    assert (found == np.round(found)).all()


def test_distance_of_two_gaussians_is_the_closed_form() -> None:
    # Four points on two axes: mean (3, 0), covariance diag(8/3, 2/3).
    features = np.array([[5.0, 0], [1, 0], [3, 1], [3, -1]])
    covariance = np.diag([4 / 3, 7.0])
    assert distance(np.zeros(2), covariance, features) == pytest.approx(3 / np.sqrt(2))
    assert distance(np.array([3.0, 0]), covariance, features) == pytest.approx(0)
    # A direction in which neither varies does not count: the pseudo-inverse.
    flat = np.concatenate([features, np.ones((4, 1))], axis=1)
    assert distance(np.zeros(3), np.diag([4 / 3, 7.0, 0]), flat) == pytest.approx(3 / np.sqrt(2))
    # What is known of a flat block counts for the mean, now (4, 0), and not for the covariance.
    more = np.concatenate([features, [[8.0, np.nan]]])
    assert distance(np.zeros(2), covariance, more) == pytest.approx(4 / np.sqrt(2))


def test_a_partly_flat_picture_is_judged_by_the_rest(niqe: Niqe, face: np.ndarray) -> None:
    picture = face.copy()
    picture[:, :200] = 90
    features = picture_features(picture, niqe.window)
    flat = np.isnan(features).any(axis=1)
    assert flat.reshape(5, 5)[:, :2].all()
    assert not flat.reshape(5, 5)[:, 3:].any()
    assert np.isfinite(niqe.measure(picture[None])).all()


def test_flat_pictures_are_named(niqe: Niqe, face: np.ndarray) -> None:
    pictures = np.full((3, 512, 512, 3), 90, np.uint8)
    pictures[1] = face
    with pytest.raises(NiqeError, match=r"2 of 3 pictures, index \[0, 2\]"):
        niqe.measure(pictures)


@pytest.mark.parametrize(
    "pictures",
    [np.zeros((512, 512, 3), np.uint8), np.zeros((1, 512, 400, 3), np.uint8), np.zeros((1, 512, 512, 3))],
)
def test_other_arrays_are_refused(niqe: Niqe, pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        niqe.measure(pictures)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "niqe_pris_params.npz"
    with pytest.raises(NiqeError, match=r"niqe_pris_params\.npz: not found"):
        Niqe.load(path)
    np.savez(path, **parameters())
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2], whole[:500] + b"\0" * 400 + whole[900:]):
        path.write_bytes(damaged)
        with pytest.raises(NiqeError, match=r"niqe_pris_params\.npz: not a \.npz of plain arrays"):
            Niqe.load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    shutil.move(tmp_path / "one.npy", path)
    with pytest.raises(NiqeError, match=r"not a \.npz"):
        Niqe.load(path)
    np.savez(path, **(parameters() | {"mu_pris_param": np.array([{}], object)}))
    with pytest.raises(NiqeError, match=r"not a \.npz of plain arrays"):
        Niqe.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mu_pris_param", None, "lacks mu_pris_param"),
        ("mu_pris_param", np.zeros(35), r"found \(35,\)"),
        ("cov_pris_param", np.eye(35), r"found \(36,\) and \(35, 35\)"),
        ("cov_pris_param", np.full((36, 36), np.nan), "cov_pris_param is not of finite"),
        ("gaussian_window", np.ones((6, 6)) / 36, "no odd square"),
        ("gaussian_window", np.ones((7, 7)), "sums to 1"),
        ("gaussian_window", np.ones((7, 7), np.int64), "gaussian_window is not of finite"),
    ],
)
def test_a_file_with_other_arrays_is_refused(
    tmp_path: Path, key: str, value: np.ndarray | None, message: str
) -> None:
    arrays = parameters()
    del arrays[key]
    if value is not None:
        arrays[key] = value
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(NiqeError, match=message):
        Niqe.load(tmp_path / "p.npz")

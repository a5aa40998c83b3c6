"""PFLD on real faces against the manifest's landmarks; FAN against facexlib's own code."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from facexlib.alignment import awing_arch, landmark_98_to_68

from cfpp.config import WeightsParams
from cfpp.evaluation import landmarks
from cfpp.evaluation.landmarks import (
    MIRRORED,
    FaceAlignmentNetwork,
    OnnxLandmarks,
    ProbeLandmarks,
    SteadyLandmarks,
    choose_landmarks,
    heat_peaks,
)
from cfpp.evaluation.metrics import landmark_error
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.external import ExternalFile, ExternalFileError
from cfpp.models.probe import Probe
from tests.evaluation.tiny_onnx import mean_colour


def weights(root: str | Path = "", landmarks: str | Path = "") -> WeightsParams:
    return WeightsParams(root=str(root), identity="", landmarks=str(landmarks))


def five_of(points: np.ndarray) -> np.ndarray:
    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    return np.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], axis=1)


def test_pfld_finds_real_landmarks_at_every_size(
    shared: Path, real_faces: tuple[np.ndarray, np.ndarray]
) -> None:
    detector = OnnxLandmarks(shared / "weights/pfld_68.onnx", "PFLD")
    pictures, truth = real_faces
    points = detector.detect(pictures)
    span = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    error = np.linalg.norm(five_of(points) - truth, axis=2).mean(axis=1) / span
    assert error.mean() < 0.08
    small = np.stack([cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in pictures])
    again = (detector.detect(small) + 0.5) * 4 - 0.5
    assert np.linalg.norm(again - points, axis=2).mean() < 0.03 * span.mean()


def test_pfld_reads_rgb(shared: Path, real_faces: tuple[np.ndarray, np.ndarray]) -> None:
    path = shared / "weights/pfld_68.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[2]
    face = cv2.GaussianBlur(real_faces[0][0], (0, 0), 2)
    face[..., 2] //= 3  # red light: no channel can stand for another
    points = OnnxLandmarks(path, "PFLD").detect(face[None])[0]
    square = face[130:470, 86:426]  # 340 about (256, 300)
    crop = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    inputs = crop.transpose(2, 0, 1)[None].astype(np.float32) / 255
    [raw] = session.run(None, {session.get_inputs()[0].name: inputs})[:1]
    assert points == pytest.approx(raw.reshape(68, 2) * 340 + [85.5, 129.5], abs=1e-3)
    [swapped] = session.run(None, {session.get_inputs()[0].name: inputs[:, ::-1]})[:1]
    assert np.abs(swapped - raw).max() > 0.001


def test_a_moved_face_moves_its_landmarks(shared: Path, real_faces: tuple[np.ndarray, np.ndarray]) -> None:
    detector = OnnxLandmarks(shared / "weights/pfld_68.onnx", "PFLD")
    pictures = real_faces[0][:8]
    moved = np.roll(pictures, (8, -12), axis=(1, 2))
    shift = (detector.detect(moved) - detector.detect(pictures)).mean(axis=(0, 1))
    assert shift == pytest.approx([-12, 8], abs=3)


class Dots:
    """Finds the dot of colour (i, 1, 1) as point i; where the dot in blue lies on the right, mirrored."""

    name = "dots"

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        found = []
        for picture in pictures:
            places = {int(picture[y, x, 0]): (x, y) for y, x in np.argwhere(picture[..., 1] == 1)}
            points = np.array([places[index] for index in range(68)], dtype=float)
            [[_, blue]] = np.argwhere(picture[..., 2] == 255)
            found.append(points[MIRRORED] if blue > picture.shape[1] / 2 else points)
        return np.stack(found)


def test_views_are_moved_and_mirrored_back() -> None:
    rng = np.random.default_rng(0)
    pictures, truth = np.zeros((2, 128, 128, 3), np.uint8), np.zeros((2, 68, 2))
    for picture, points in zip(pictures, truth, strict=True):
        picture[5, 20] = (0, 0, 255)
        places = rng.permutation(100 * 100)[:68]
        for index, (y, x) in enumerate(np.stack(np.divmod(places, 100), 1) + 14):
            picture[y, x], points[index] = (index, 1, 1), (x, y)
    assert np.array_equal(SteadyLandmarks(Dots()).detect(pictures), truth)
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(68))


def test_the_mean_of_views_treats_a_face_and_its_mirror_image_alike_and_is_steadier(
    shared: Path, real_faces: tuple[np.ndarray, np.ndarray]
) -> None:
    one = OnnxLandmarks(shared / "weights/pfld_68.onnx", "PFLD")
    steady = SteadyLandmarks(one)
    assert steady.name == "PFLD, mean of 10 views"
    small = np.stack([cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in real_faces[0]])
    points = steady.detect(small)
    mirrored = steady.detect(np.ascontiguousarray(small[:, :, ::-1]))[:, MIRRORED]
    assert 127 - mirrored[..., 0] == pytest.approx(points[..., 0], abs=1e-3)
    assert mirrored[..., 1] == pytest.approx(points[..., 1], abs=1e-3)
    # Which of the points are each other's counterparts is seen by the network itself.
    alone = one.detect(np.ascontiguousarray(small[:, :, ::-1]))[:, MIRRORED]
    assert np.abs(127 - alone[..., 0] - one.detect(small)[..., 0]).mean() < 4

    smooth = np.stack([cv2.GaussianBlur(p, (0, 0), 1.5) for p in small])
    noise = np.random.default_rng(0).normal(0, 4, smooth.shape)
    noisy = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    before = landmark_error(one.detect(noisy), one.detect(smooth)).mean()
    assert landmark_error(steady.detect(noisy), steady.detect(smooth)).mean() < 0.8 * before


def test_photographs_without_a_network_are_unavailable_with_the_reason() -> None:
    absent = choose_landmarks("folder", weights(), Probe())
    assert isinstance(absent, Unavailable)
    assert "pfld_68.onnx" in absent.reason
    assert "`cfpp weights fetch alignment_WFLW_4HG.pth`" in absent.reason
    assert isinstance(choose_landmarks("procedural", weights(), Probe()), ProbeLandmarks)


def test_a_network_that_finds_no_68_points_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(mean_colour(("n", 3, 112, 112)))
    detector = choose_landmarks("folder", weights(landmarks=path), Probe())
    assert isinstance(detector, SteadyLandmarks)
    with pytest.raises(ExternalFileError, match=r"net\.onnx: gives \(2, 3\); expected 68 points"):
        detector.detect(np.zeros((2, 64, 64, 3), np.uint8))
    path.write_bytes(mean_colour(("n", 3, 112, 96)))
    with pytest.raises(ExternalFileError, match=r"net\.onnx: .*takes a square"):
        OnnxLandmarks(path, "tiny")


def test_heat_peaks_are_those_of_facexlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # facexlib uses the name that NumPy dropped
    rng = np.random.default_rng(0)
    maps = rng.uniform(0, 1, (3, 98, 64, 64)).astype(np.float32)
    maps[:, :, [0, -1]] = maps[:, :, :, [0, -1]] = 0  # beyond the border its neighbours are of other rows
    assert heat_peaks(maps) == pytest.approx(awing_arch.calculate_points(maps))


def test_heat_peaks_at_the_border_stay_in_their_row() -> None:
    maps = np.zeros((1, 2, 64, 64))
    maps[0, 0, 10, 0] = maps[0, 1, 63, 63] = 1
    maps[0, 0, 11, 0] = maps[0, 1, 63, 62] = 0.5
    assert heat_peaks(maps)[0] == pytest.approx(np.array([[0.5, 10.75], [63.5, 63.5]]))


@pytest.fixture(scope="module")
def fan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, awing_arch.FAN]]:
    """facexlib's network with random weights, and its file."""
    path = tmp_path_factory.mktemp("fan") / "alignment_WFLW_4HG.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = awing_arch.FAN(num_modules=4, num_landmarks=98, device="cpu").eval()
    torch.save({"state_dict": network.state_dict(), "epoch": 1}, path)
    yield path, network
    path.unlink()


def test_fan_is_facexlibs_network_on_the_square_about_the_face(
    fan: tuple[Path, awing_arch.FAN], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = fan
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(landmarks, "FAN", (ExternalFile(path.name, digest, "FAN"),))
    detector = choose_landmarks("folder", weights(path.parent), Probe())
    assert isinstance(detector, FaceAlignmentNetwork)
    rng = np.random.default_rng(0)
    side, left, top = 386, 65, 98  # of a face of 386 pixels the square is 256, so nothing is resized
    picture = cv2.GaussianBlur(rng.integers(0, 256, (side, side, 3)).astype(np.uint8), (0, 0), 3)
    crop = picture[top : top + 256, left : left + 256]
    with torch.inference_mode():
        maps = network(torch.from_numpy(crop / 255).float().permute(2, 0, 1)[None])[0][-1][:, :98].numpy()
    expected = landmark_98_to_68(4 * heat_peaks(maps)[0] + np.array([left - 0.5, top - 0.5]))
    assert detector.detect(picture[None])[0] == pytest.approx(expected, abs=1e-2)


def test_fans_points_lie_where_the_heat_is(fan: tuple[Path, awing_arch.FAN]) -> None:
    detector = FaceAlignmentNetwork(fan[0])
    rng = np.random.default_rng(1)
    truth = rng.uniform(150, 380, (2, 98, 2))  # pixels of 512, centres at whole numbers
    cells = (truth + 0.5 - [86, 130]) * 64 / 340 - 0.5  # the square's corner and side
    grid = np.arange(64)
    across = np.exp(-np.square(grid - cells[..., :1]) / 2)
    down = np.exp(-np.square(grid - cells[..., 1:]) / 2)
    heat = torch.from_numpy(down[..., :, None] * across[..., None, :])
    outline = torch.ones(2, 1, 64, 64)
    detector._network = lambda inputs: ([torch.cat([heat, outline], 1)], [])
    found = detector.detect(np.zeros((2, 512, 512, 3), np.uint8))
    expected = np.stack([landmark_98_to_68(points) for points in truth])
    assert np.abs(found - expected).max() <= 340 / 64 / 4 + 1e-3  # a quarter of a cell


def test_another_state_dict_under_fans_name_is_an_error(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "net.pth")
    with pytest.raises(ExternalFileError, match=r"net\.pth: another network"):
        FaceAlignmentNetwork(tmp_path / "net.pth")

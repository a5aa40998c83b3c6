"""The face detector on photographs put where they are known to be, and without its file."""

import csv
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest

from cfpp.data.align import GROUND, align
from cfpp.data.components import TEMPLATE_512
from cfpp.models.external import ExternalFileError
from cfpp.models.face_detector import DetectorError, FaceDetector

CANVAS = 1500


@pytest.fixture(scope="module")
def detector(shared: Path) -> FaceDetector:
    return FaceDetector.load(shared / "weights")


@pytest.fixture(scope="module")
def faces(shared: Path) -> list[np.ndarray]:
    with (shared / "faces/manifest.csv").open(encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["file"].startswith("test/")][::15]
    return [np.ascontiguousarray(cv2.imread(str(shared / "faces" / name))[..., ::-1]) for name in names]


def placed(face: np.ndarray, angle: float, scale: float, middle: tuple[float, float]) -> np.ndarray:
    """The similarity [2, 3] that puts an aligned face of 512 about `middle`."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn, np.array(middle) - turn @ (255.5, 255.5)])


def test_faces_are_found_and_aligned_where_they_were_put(
    detector: FaceDetector, faces: list[np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    distances = []
    for place, face in enumerate(faces):
        scale = 0.25 * 7.2 ** (place / (len(faces) - 1))  # to 1.8
        middle = (float(rng.uniform(500, 1000)), float(rng.uniform(500, 1000)))
        there = placed(face, rng.uniform(-0.35, 0.35), scale, middle)
        canvas = cv2.warpAffine(face, there, (CANVAS, CANVAS), flags=cv2.INTER_AREA, borderValue=GROUND)
        found = detector.detect(canvas)
        assert len(found) == 1
        aligned, matrix = align(canvas, found.points[0])
        whole = matrix @ np.vstack([there, [0, 0, 1]])  # from the face as it was to the face as it is
        distance = np.linalg.norm(TEMPLATE_512 @ whole[:, :2].T + whole[:, 2] - TEMPLATE_512, axis=1)
        distances.append(distance.mean())
        if scale > 1:  # nothing was lost on the way
            expected = cv2.warpAffine(face, whole, (512, 512), flags=cv2.INTER_CUBIC)
            middle_part = (slice(128, 416), slice(128, 384))
            error = aligned[middle_part].astype(float) - expected[middle_part]
            assert 10 * np.log10(255**2 / np.square(error).mean()) > 38
    # pixels of 512; the photographs were aligned by another network, which is about 5 of them
    assert np.mean(distances) < 9
    assert max(distances) < 18


def test_the_largest_face_comes_first(detector: FaceDetector, faces: list[np.ndarray]) -> None:
    canvas = np.full((700, 1000, 3), 128, np.uint8)
    canvas[50:250, 50:250] = cv2.resize(faces[1], (200, 200), interpolation=cv2.INTER_AREA)
    canvas[150:650, 400:900] = cv2.resize(faces[2], (500, 500), interpolation=cv2.INTER_AREA)
    found = detector.detect(canvas)
    assert len(found) == 2
    assert found.points.shape == (2, 5, 2)
    for points, corner, side in zip(found.points, ((400, 150), (50, 50)), (500, 200), strict=True):
        expected = TEMPLATE_512 * side / 512 + corner
        assert np.linalg.norm(points - expected, axis=1).mean() < 0.05 * side
    assert (found.scores > 0.8).all()


class Hasty:
    """Stands in for the network: sees the red square, and points well in a close-up of 256 pixels only."""

    def detect_faces(self, bgr: np.ndarray, confidence: float, overlap: float) -> np.ndarray:
        y, x = np.nonzero((bgr[..., 2] > 200) & (bgr[..., 1] < 50))
        left, top, right, bottom = x.min(), y.min(), x.max() + 1, y.max() + 1
        points = TEMPLATE_512 * (right - left) / 512 + (left, top)
        if max(bgr.shape[:2]) != 256:
            points = points + 0.05 * (right - left)
        return np.array([[left, top, right, bottom, 0.9, *points.ravel()]])


def test_the_points_are_those_of_the_second_look() -> None:
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[200:300, 500:600] = (255, 0, 0)
    found = FaceDetector(Hasty(), "hasty").detect(picture)
    assert found.points[0] == pytest.approx(TEMPLATE_512 * 100 / 512 + (500, 200), abs=1)  # else 5 pixels off


class Forgetful:
    """A network that keeps its picture in itself while it looks, as facexlib's does."""

    def detect_faces(self, bgr: np.ndarray, confidence: float, overlap: float) -> np.ndarray:
        self.width = bgr.shape[1]
        time.sleep(0.01)
        return np.array([[0, 0, self.width, self.width, 0.9, *(TEMPLATE_512 * self.width / 512).ravel()]])


def test_threads_see_each_its_own_picture() -> None:
    detector = FaceDetector(Forgetful(), "forgetful")
    widths = [100, 200] * 10

    def width(side: int) -> float:
        return float(detector.detect(np.zeros((side, side, 3), np.uint8)).boxes[0, 2])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(width, widths)) == pytest.approx(widths)


def test_no_face_is_no_error(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    found = detector.detect(noise)
    assert len(found) == 0
    assert found.points.shape == (0, 5, 2)


def test_loading_touches_no_network_and_writes_nothing(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refused)
    name = "detection_mobilenet0.25_Final.pth"
    shutil.copy(shared / "weights" / name, tmp_path)
    FaceDetector.load(tmp_path).detect(np.zeros((64, 64, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_without_its_file_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"finding faces needs .*cfpp weights fetch detection_mobilenet"):
        FaceDetector.load(tmp_path)
    with pytest.raises(DetectorError, match="detection_Resnet50_Final"):
        FaceDetector.load("", "resnet50")
    (tmp_path / "detection_Resnet50_Final.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(ExternalFileError, match=r"detection_Resnet50_Final\.pth: sha256 is"):
        FaceDetector.load(tmp_path)

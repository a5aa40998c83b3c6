"""Faces of whole photographs: what changes, by how much, and what stays as it was."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import cfpp.restoration.photographs
from cfpp.data.align import scaled_template
from cfpp.data.pictures import decode_photo
from cfpp.models.face_detector import FaceDetector, Faces
from cfpp.restoration.photographs import FEATHER, paste_faces, restore_photograph
from cfpp.restoration.restorer import RestoreError

SIZE = 64


class Painter:
    """A restorer that makes a known picture of every face; None: leaves it as it is."""

    size = SIZE

    def __init__(self, *values: int) -> None:
        self.values = values

    def restore(self, pictures: np.ndarray, batch_size: int = 8, w: float = 0.0) -> np.ndarray:
        made = pictures.copy()
        for face, value in zip(made, self.values, strict=False):
            face[:] = value
        return made


class Known(FaceDetector):
    """Finds the faces that it was told of."""

    def __init__(self, *points: np.ndarray) -> None:
        self.points = np.array(points).reshape(-1, 5, 2)

    def detect(self, picture: np.ndarray, confidence: float = 0.8) -> Faces:
        low, high = self.points.min(axis=1), self.points.max(axis=1)
        boxes = np.concatenate([low - (high - low), high + (high - low)], axis=1)
        return Faces(boxes, self.points, np.ones(len(boxes)))


def turned(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    """[2, 3]: from a face of SIZE to a photograph where it is `scale` times larger, its middle at (x, y)."""
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, (SIZE - 1) / 2)
    return np.column_stack([turn, (x, y) - turn @ middle])


def landmarks(matrix: np.ndarray) -> np.ndarray:
    moved: np.ndarray = scaled_template(SIZE) @ matrix[:, :2].T + matrix[:, 2]
    return moved


def smooth_photograph(height: int, width: int) -> np.ndarray:
    """Waves of 60 pixels and more."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 11 + 1) * np.cos(y / 13), np.cos((x + y) / 17), np.sin((x - y) / 10)]
    return np.rint(128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def restored(photograph: np.ndarray, restorer: Any, *matrices: np.ndarray) -> np.ndarray:
    return restore_photograph(photograph, Known(*map(landmarks, matrices)), restorer).picture


def outside(shape: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """Whether each pixel lies outside of the face's square, by its four edges."""
    corners = np.array([[-0.5, -0.5], [SIZE - 0.5, -0.5], [SIZE - 0.5, SIZE - 0.5], [-0.5, SIZE - 0.5]])
    corners = corners @ matrix[:, :2].T + matrix[:, 2]
    y, x = np.mgrid[: shape[0], : shape[1]]
    out = np.zeros(shape[:2], bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        out |= (bx - ax) * (y - ay) - (by - ay) * (x - ax) < -1e-6
    return out


@pytest.mark.parametrize("scale", [0.4, 0.8, 1.0, 1.6, 3.0])
@pytest.mark.parametrize("degrees", [0, 37, 180])
def test_faces_left_as_they_are_leave_the_photograph_as_it_was(scale: float, degrees: float) -> None:
    photograph = smooth_photograph(300, 340)
    before = photograph.copy()
    matrix = turned(scale, degrees, 161.3, 148.8)
    out = restored(photograph, Painter(), matrix)
    np.testing.assert_array_equal(photograph, before)
    difference = np.abs(out.astype(int) - photograph)
    assert difference.max() <= 4  # of 180 that the waves span: two resamplings and two roundings
    assert difference.mean() < 0.3
    out = restored(photograph, Painter(255), matrix)
    far = outside(photograph.shape, matrix)
    assert 0.3 < np.mean(far) < 1
    np.testing.assert_array_equal(out[far], photograph[far])
    assert (out[~far] != photograph[~far]).mean() > 0.8


def test_the_share_of_a_face_falls_smoothly_from_1_to_0_before_its_edge() -> None:
    photograph = np.full((200, 200, 3), 55, np.uint8)
    scale = 2.0
    out = restored(photograph, Painter(255), turned(scale, 0, 100, 100))
    half = scale * SIZE / 2
    distance = np.abs(np.arange(200) - 100) / half  # along the middle row
    t = np.clip((1 - distance) / FEATHER, 0, 1)
    expected = 55 + 200 * (3 * t**2 - 2 * t**3)
    for line in (out[100, :, 0], out[:, 100, 2]):
        np.testing.assert_allclose(line, expected, atol=0.51)
    assert out[100, 100, 1] == 255
    assert (out[100 - int(half), 100 - int(half)] == 55).all()


def test_a_face_is_where_its_landmarks_were() -> None:
    face = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    face[0, 20:44, 12:52] = (250, 120, 60)
    for scale, degrees in ((0.5, 20), (2.3, -50)):
        matrix = turned(scale, degrees, 90, 110)
        out = paste_faces(np.zeros((220, 200, 3), np.uint8), cv2.invertAffineTransform(matrix)[None], face)
        rows, columns = np.nonzero(out[..., 0] > 125)
        middle = matrix[:, :2] @ (31.5, 31.5) + matrix[:, 2]
        np.testing.assert_allclose((columns.mean(), rows.mean()), middle, atol=0.3)
        assert len(rows) == pytest.approx(24 * 40 * scale**2, rel=0.06)


def test_neighbours_share_their_pixels_whatever_their_order() -> None:
    photograph = np.full((120, 220, 3), 40, np.uint8)
    left, right = turned(1.5, 0, 80, 60), turned(1.5, 0, 120, 60)
    out = restored(photograph, Painter(255, 0), left, right)
    other = restored(photograph, Painter(0, 255), right, left)
    assert np.abs(out.astype(int) - other).max() <= 1
    assert (out[60, 70] == 255).all()
    assert (out[60, 130] == 0).all()
    np.testing.assert_allclose(out[50:70, 100], 127.5, atol=1)  # half and half: nothing of the photograph
    assert (np.diff(out[60, 75:125, 0].astype(int)) <= 0).all()


def test_a_large_face_is_laid_back_in_strips_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = smooth_photograph(200, 260)
    matrices = turned(2.5, 15, 120, 90), turned(1.2, -20, 200, 150)
    noise = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    backs = np.array([cv2.invertAffineTransform(m) for m in matrices])
    whole = paste_faces(photograph, backs, noise)
    monkeypatch.setattr(cfpp.restoration.photographs, "_STRIP", 1000)
    np.testing.assert_allclose(paste_faces(photograph, backs, noise), whole, atol=1)


def test_a_face_across_the_edge_of_the_photograph_is_restored_as_far_as_it_goes() -> None:
    photograph = smooth_photograph(100, 120)
    for scale in (0.7, 1.0, 3.0):
        where = turned(scale, 10, 5, 95)
        out = restored(photograph, Painter(), where)
        assert np.abs(out.astype(int) - photograph).max() <= 4  # no grey ground within
        white = restored(photograph, Painter(255), where)
        room = round(4 * scale)
        assert (white[95 - room : 100 - room, room : room + 5] == 255).all()
        np.testing.assert_array_equal(white[-1], photograph[-1])


def test_what_is_not_restored_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = smooth_photograph(100, 120)
    monkeypatch.setattr(cfpp.restoration.photographs, "LEAST_SIDE", 10)
    good, small = landmarks(turned(1.0, 0, 60, 50)), landmarks(turned(0.05, 0, 30, 30))
    nowhere = np.full((5, 2), 20.0) + np.array([[0, 0], [30, 0], [0, 0], [0, 0], [0, np.nan]])
    made = restore_photograph(photograph, Known(good, small, nowhere), Painter(9, 9, 9))  # type: ignore[arg-type]
    assert made.points.shape == (1, 5, 2)
    np.testing.assert_array_equal(made.points[0], good)
    assert len(made.left_out) == 2
    assert "pixels, too few" in made.left_out[0]
    assert "not finite" in made.left_out[1]
    none = restore_photograph(photograph, Known(), Painter())  # type: ignore[arg-type]
    np.testing.assert_array_equal(none.picture, photograph)
    assert none.boxes.shape == (0, 4)


@pytest.mark.parametrize("shape", [(0, 0, 3), (10, 10), (10, 10, 4), (1, 10, 10, 3)])
def test_no_photograph_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RestoreError, match="expected a photograph"):
        restore_photograph(np.zeros(shape, np.uint8), Known(), Painter())  # type: ignore[arg-type]
    with pytest.raises(RestoreError, match="float64"):
        restore_photograph(np.zeros((10, 10, 3)), Known(), Painter())  # type: ignore[arg-type]


@pytest.mark.usefixtures("one_thread")
def test_real_faces_on_one_photograph_are_found_and_laid_back(shared: Path) -> None:
    photograph = smooth_photograph(400, 700)
    files = sorted((shared / "faces/test").iterdir())[:2]
    places = [turned(3.5, 15, 180, 200), turned(2.5, -20, 520, 200)]
    for file, where in zip(files, places, strict=True):
        face = decode_photo(file.read_bytes())
        onto = where @ np.array([[SIZE / len(face), 0, 0], [0, SIZE / len(face), 0], [0, 0, 1]])
        cv2.warpAffine(face, onto, (700, 400), photograph, cv2.INTER_AREA, cv2.BORDER_TRANSPARENT)
    detector = FaceDetector.load(shared / "weights")
    made = restore_photograph(photograph, detector, Painter(255, 255))  # type: ignore[arg-type]
    assert len(made.boxes) == 2
    for where, points in zip(places, made.points, strict=True):
        error = np.linalg.norm(points - landmarks(where), axis=1).mean()
        assert error < 0.06 * np.hypot(*where[:, 0]) * SIZE  # the aligned faces lie near the template
        x, y = points.mean(axis=0).astype(int)
        assert (made.picture[y - 10 : y + 10, x - 10 : x + 10] == 255).all()
    np.testing.assert_array_equal(made.picture[:, 340:370], photograph[:, 340:370])

"""PFLD on real faces against the manifest's landmarks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cfpp.evaluation.landmarks import OnnxLandmarks, ProbeLandmarks, choose_landmarks
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.probe import Probe


def five_of(points: np.ndarray) -> np.ndarray:
    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    return np.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], axis=1)


def test_pfld_finds_real_landmarks_at_every_size(
    shared: Path, real_faces: tuple[np.ndarray, np.ndarray]
) -> None:
    detector = OnnxLandmarks(shared / "weights/pfld_68.onnx")
    pictures, truth = real_faces
    points = detector.detect(pictures)
    span = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    error = np.linalg.norm(five_of(points) - truth, axis=2).mean(axis=1) / span
    assert error.mean() < 0.08
    small = np.stack([cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in pictures])
    again = (detector.detect(small) + 0.5) * 4 - 0.5
    assert np.linalg.norm(again - points, axis=2).mean() < 0.03 * span.mean()


def test_a_moved_face_moves_its_landmarks(shared: Path, real_faces: tuple[np.ndarray, np.ndarray]) -> None:
    detector = OnnxLandmarks(shared / "weights/pfld_68.onnx")
    pictures = real_faces[0][:8]
    moved = np.roll(pictures, (8, -12), axis=(1, 2))
    shift = (detector.detect(moved) - detector.detect(pictures)).mean(axis=(0, 1))
    assert shift == pytest.approx([-12, 8], abs=3)


def test_photographs_without_a_network_are_unavailable_with_the_reason() -> None:
    absent = choose_landmarks("folder", "", Probe())
    assert isinstance(absent, Unavailable)
    assert "pfld_68.onnx" in absent.reason
    assert isinstance(choose_landmarks("procedural", "", Probe()), ProbeLandmarks)

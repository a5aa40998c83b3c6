"""Embedders: the crop against an independent fit, MobileFaceNet on real faces, and honest absence."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from cfpp.data.components import TEMPLATE_512
from cfpp.evaluation.identity import (
    SPHEREFACE_TEMPLATE,
    EmbeddedIdentity,
    OnnxIdentity,
    choose_identity,
    five_point_crop,
    scaled_template,
    similarity,
)
from cfpp.evaluation.unavailable import Unavailable
from cfpp.evaluation.verification import auc, equal_error_rate, pair_scores
from cfpp.models.probe import Probe


def test_the_crop_lays_the_points_on_the_template() -> None:
    rng = np.random.default_rng(0)
    points = scaled_template(256) + rng.normal(0, 3, (5, 2))
    expected = SimilarityTransform.from_estimate(points, SPHEREFACE_TEMPLATE)
    ramp = np.stack(np.meshgrid(np.arange(256.0), np.arange(256.0)), axis=2)
    picture = np.concatenate([ramp, np.zeros((256, 256, 1))], axis=2).astype(np.uint8)
    crop = five_point_crop(picture, points)
    inside = expected.inverse(np.array([(40.0, 50.0), (60.0, 80.0), (50.0, 66.0)]))
    found = np.array([crop[50, 40, :2], crop[80, 60, :2], crop[66, 50, :2]])
    assert found == pytest.approx(inside, abs=1.2)


def test_the_crop_of_a_large_picture_equals_that_of_the_small_one() -> None:
    rng = np.random.default_rng(0)
    small = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), (0, 0), 3)
    large = cv2.resize(small, (512, 512), interpolation=cv2.INTER_LINEAR)
    first, second = five_point_crop(small, scaled_template(128)), five_point_crop(large, TEMPLATE_512)
    assert first.shape == (112, 96, 3)
    assert np.abs(first.astype(int) - second.astype(int)).mean() < 2


def test_coinciding_landmarks_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        five_point_crop(np.zeros((64, 64, 3), np.uint8), np.full((5, 2), 30.0))


def test_mobilefacenet_knows_a_degraded_photo_and_tells_people_apart(
    shared: Path, real_faces: tuple[np.ndarray, np.ndarray]
) -> None:
    embedder = OnnxIdentity(shared / "weights/mobilefacenet_112x96.onnx")
    pictures, points = real_faces
    small = [cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in pictures]
    worse = np.stack([cv2.resize(p, (512, 512), interpolation=cv2.INTER_LINEAR) for p in small])
    clean, degraded = embedder.embed(pictures, points), embedder.embed(worse, points)
    assert np.linalg.norm(clean, axis=1) == pytest.approx(1, abs=1e-5)
    others = (clean @ clean.T)[~np.eye(len(clean), dtype=bool)]
    assert abs(others.mean()) < 0.1
    assert others.max() < 0.6
    assert similarity(clean, degraded).min() > 0.75
    # aligned faces need no landmarks: the template finds the same people
    templated = embedder.embed(pictures)
    assert similarity(clean, templated).mean() > 0.85
    assert ((templated @ clean.T).argmax(axis=1) == np.arange(24)).all()


def test_photographs_without_a_network_are_unavailable_with_the_reason(tmp_path: Path, shared: Path) -> None:
    absent = choose_identity("folder", "", Probe())
    assert isinstance(absent, Unavailable)
    assert "mobilefacenet_112x96.onnx" in absent.reason
    assert "weights.root" in absent.reason
    assert isinstance(choose_identity("folder", str(tmp_path), Probe()), Unavailable)
    assert isinstance(choose_identity("folder", str(shared / "weights"), Probe()), OnnxIdentity)
    assert isinstance(choose_identity("procedural", str(shared / "weights"), Probe()), EmbeddedIdentity)


def test_auc_and_equal_error_rate_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    same, different = rng.normal(1, 1, 80).round(1), rng.normal(0, 1, 120).round(1)
    wins = np.mean([1.0 if s > d else 0.5 if s == d else 0.0 for s in same for d in different])
    assert auc(same, different) == pytest.approx(wins)
    assert equal_error_rate(same, different) == pytest.approx(0.31, abs=0.05)  # Phi(-1/2) = 0.309
    assert auc(same + 100, different) == 1
    assert equal_error_rate(same + 100, different) == 0


def test_pairs_leave_out_a_picture_with_itself() -> None:
    vectors = np.eye(3)[[0, 0, 1]]
    same, different = pair_scores(vectors, vectors, ["a", "a", "b"])
    assert same.tolist() == [1, 1]
    assert sorted(different.tolist()) == [0, 0, 0, 0]

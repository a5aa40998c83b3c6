"""The probe that comes with the package, on people it has never seen."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cfpp.data
from cfpp.config import DegradationRange
from cfpp.data.degradation import apply, draw
from cfpp.data.draws import generator
from cfpp.data.procedural.render import render
from cfpp.evaluation.identity import probe_outputs
from cfpp.evaluation.metrics import landmark_error
from cfpp.evaluation.verification import auc, pair_scores
from cfpp.models.probe import Probe, load_probe
from cfpp.models.weights import read_card

EMBEDDED = Path(cfpp.data.__file__).with_name("embedded") / "probe"
PEOPLE, SHOTS = 10, 2


@pytest.fixture(scope="module")
def probe() -> Probe:
    return load_probe()


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray, list[str]]:
    drawn = [render(0, who, shot, 128) for who in range(500, 500 + PEOPLE) for shot in range(SHOTS)]
    pictures = np.stack([face.picture for face in drawn])
    return pictures, np.stack([face.landmarks68 for face in drawn]), [face.identity for face in drawn]


def test_landmarks_of_unseen_people_are_near_the_truth(
    probe: Probe, faces: tuple[np.ndarray, np.ndarray, list[str]]
) -> None:
    pictures, truth, _ = faces
    error = landmark_error(probe_outputs(probe, pictures)[0], truth).mean()
    template = landmark_error(np.broadcast_to(truth.mean(axis=0), truth.shape), truth).mean()
    assert error < 3.6
    assert error < 0.75 * template


def test_people_never_seen_are_told_apart(
    probe: Probe, faces: tuple[np.ndarray, np.ndarray, list[str]]
) -> None:
    pictures, _, people = faces
    embeddings = probe_outputs(probe, pictures)[1]
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)
    assert auc(*pair_scores(embeddings, embeddings, people)) > 0.93


def test_a_mild_degradation_keeps_both(probe: Probe, faces: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    pictures, truth, people = faces
    mild = DegradationRange(sigma=(2, 4), downsample=(4, 6), noise=(0, 8), jpeg=(60, 90))
    rng = generator(0, "test")
    worse = np.stack([apply(picture, draw(mild, rng), rng) for picture in pictures])
    points, embeddings = probe_outputs(probe, worse)
    assert landmark_error(points, truth).mean() < 5.0
    clean = probe_outputs(probe, pictures)[1]
    same = (clean * embeddings).sum(axis=1)
    _, different = pair_scores(clean, embeddings, people)
    assert same.mean() > different.mean() + 0.3


def test_landmarks_follow_the_size_and_a_shift(
    probe: Probe, faces: tuple[np.ndarray, np.ndarray, list[str]]
) -> None:
    pictures, _, _ = faces
    points = probe_outputs(probe, pictures)[0]
    large = np.stack([cv2.resize(p, (512, 512), interpolation=cv2.INTER_CUBIC) for p in pictures])
    assert (probe_outputs(probe, large)[0] + 0.5) / 4 - 0.5 == pytest.approx(points, abs=1.0)
    moved = np.roll(pictures, (2, 3), axis=(1, 2))
    shift = (probe_outputs(probe, moved)[0] - points).mean(axis=(0, 1))
    assert shift == pytest.approx([3, 2], abs=0.8)


def test_landmarks_follow_a_local_change_of_the_face(
    probe: Probe, faces: tuple[np.ndarray, np.ndarray, list[str]]
) -> None:
    # What the metric is for: I_G's eyes and mouth are displaced by a few pixels against I_F's.
    pictures, truth, _ = faces
    before = probe_outputs(probe, pictures)[0]
    columns, rows = np.meshgrid(np.arange(128.0), np.arange(128.0))
    for part in (slice(36, 42), slice(42, 48), slice(48, 68)):
        moved, strength = [], []
        for picture, points in zip(pictures, truth, strict=True):
            x, y = points[part].mean(axis=0)
            bump = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 12.0**2))
            across, down = (columns - 3 * bump).astype(np.float32), (rows + 2 * bump).astype(np.float32)
            distance = ((points[part] - (x, y)) ** 2).sum(axis=1)
            strength.append(np.exp(-distance / (2 * 12.0**2)).mean())
            moved.append(cv2.remap(picture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
        shift = (probe_outputs(probe, np.stack(moved))[0] - before)[:, part].mean(axis=(0, 1))
        # It leans on the average face and reports half to nine tenths of a local displacement.
        assert 0.45 < shift[0] / (3 * np.mean(strength)) < 1.1
        assert 0.45 < shift[1] / (-2 * np.mean(strength)) < 1.1


def test_the_soft_argmax_is_the_mean_of_its_map() -> None:
    from cfpp.models.probe import _expectation

    heat = torch.full((1, 1, 8, 8), -1e4)
    heat[0, 0, 2, 5] = 0.0
    heat[0, 0, 3, 5] = 0.0
    assert _expectation(heat)[0, 0].tolist() == pytest.approx([5.0, 2.5])


def test_the_file_is_small_and_its_card_says_what_it_can_do() -> None:
    assert (EMBEDDED / "model.safetensors").stat().st_size < 1_500_000
    card = read_card(EMBEDDED)
    assert card.config["first_identity"] >= 1_000_000
    assert card.metrics["landmark_error_percent_interocular"] < 3.0
    assert card.metrics["verification_auc"] > 0.99

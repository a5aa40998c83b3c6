"""The component mask: where faces have their features, and nowhere else."""

import numpy as np
import pytest

from cfpp.data.components import TEMPLATE_512, component_mask, components
from cfpp.data.procedural.render import render

SIDES = [64, 128, 512]


def at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y = np.clip(np.rint(points).astype(int), 0, len(mask) - 1).T
    values: np.ndarray = mask[y, x]
    return values


@pytest.mark.parametrize("size", SIDES)
def test_template_points_are_inside_and_cheeks_forehead_chin_outside(size: int) -> None:
    mask = component_mask(size, 0.02)
    assert mask.shape == (size, size)
    assert mask.dtype == np.float32
    assert mask.min() == 0
    assert mask.max() == 1
    scale = size / 512
    assert (at(mask, TEMPLATE_512 * scale) == 1).all()
    outside = [(110, 340), (400, 340), (256, 130), (256, 460), (20, 20), (256, 505)]
    assert (at(mask, np.array(outside) * scale) == 0).all()


def test_it_covers_the_features_of_procedural_faces() -> None:
    mask, covered, covered_chin = component_mask(128, 0.02), [], []
    for identity in range(6):
        landmarks = render(seed=7, identity=identity, shot=0, size=128).landmarks68
        covered.append(at(mask, landmarks[17:]))  # brows, nose, eyes, mouth; 0-16 is the jaw
        covered_chin.append(at(mask, landmarks[7:10]))
    assert np.mean(np.concatenate(covered) > 0.5) > 0.9
    assert np.max(covered_chin) < 0.5


def test_feather_widens_the_edge_and_keeps_the_outline() -> None:
    hard, soft, softer = (component_mask(256, feather) for feather in (0.0, 0.02, 0.06))
    assert set(np.unique(hard)) == {0.0, 1.0}

    def edge(mask: np.ndarray) -> int:
        return int(((mask > 0) & (mask < 1)).sum())

    assert 0 < 2 * edge(soft) < edge(softer)
    np.testing.assert_array_equal(soft > 0.5, hard == 1)
    # The edge is feather x side pixels wide: walk down from the left eye's box on a straight flank.
    x = int(components()[0].center[0] / 2)
    column = softer[: int(TEMPLATE_512[0, 1] / 2), x]
    assert ((column > 0) & (column < 1)).sum() == pytest.approx(0.06 * 256, abs=1.5)
    assert (np.diff(column) >= 0).all()


def test_sizes_show_the_same_geometry() -> None:
    big, small = component_mask(512, 0.02), component_mask(128, 0.02)
    pooled = big.reshape(128, 4, 128, 4).mean((1, 3))
    assert np.abs(pooled - small).max() < 0.15  # a hard edge moved by a pixel of the smaller would give 1


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="size 0"):
        component_mask(0, 0.02)
    with pytest.raises(ValueError, match="feather -1"):
        component_mask(8, -1)

"""Whether two ways of degrading give pictures of the same statistics, whatever was drawn."""

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from cfpp.data.degradation import Degradation
from cfpp.data.pictures import Picture


def statistics(picture: Picture, clean: Picture) -> tuple[float, float, float, float]:
    """Mean, deviation, deviation of the fine detail (a Laplacian), PSNR to the clean face in dB."""
    pixels = picture.astype(np.float64)
    error = float(((pixels - clean) ** 2).mean())
    fine = float(cv2.Laplacian(pixels, cv2.CV_64F).std())
    return float(pixels.mean()), float(pixels.std()), fine, 10 * math.log10(255**2 / error)


def assert_same_distribution(
    drawn: Sequence[Degradation], ours: np.ndarray, theirs: np.ndarray, of_means: float
) -> None:
    """In every third of every parameter's range: means and spreads of the `statistics`, [N, 4], agree.

    Args:
        of_means: tolerance of the pictures' means, of 255.
    """
    for name in ("sigma_x", "sigma_y", "theta", "downsample", "noise", "jpeg"):
        values = np.array([getattr(given, name) for given in drawn])
        edges = np.quantile(values, [0, 1 / 3, 2 / 3, 1])
        for low, high in pairwise(edges):
            chosen = (low <= values) & (values <= high)
            tolerance = [of_means, 0.05, 0.01 * theirs[chosen, 2].mean(), 0.05]
            difference = np.abs(ours[chosen].mean(axis=0) - theirs[chosen].mean(axis=0))
            assert (difference < tolerance).all(), (name, low, high, difference)
            spread = np.abs(ours[chosen].std(axis=0) - theirs[chosen].std(axis=0))
            assert (spread < tolerance).all(), (name, low, high, spread)

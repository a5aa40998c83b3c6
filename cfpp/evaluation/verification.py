"""How well embeddings tell people apart."""

from collections.abc import Sequence

import numpy as np


def pair_scores(
    first: np.ndarray, second: np.ndarray, people: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of all pairs of different pictures: of the same person, and of two people.

    Args:
        first: embeddings [N, D] of length 1.
        second: embeddings [N, D] of the same pictures, perhaps degraded.
        people: [N] who is in each picture.
    """
    cosines = first @ second.T
    names = np.asarray(people)
    same = names[:, None] == names[None, :]
    apart = ~np.eye(len(names), dtype=bool)
    return cosines[same & apart], cosines[~same]


def auc(same: np.ndarray, different: np.ndarray) -> float:
    """Probability that a pair of one person scores above a pair of two; ties count half."""
    ordered = np.sort(different)
    below = np.searchsorted(ordered, same, side="left")
    not_above = np.searchsorted(ordered, same, side="right")
    return float((below + not_above).mean() / (2 * len(different)))


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Share of errors at the threshold where false accepts and false rejects are nearest."""
    thresholds = np.unique(np.concatenate([same, different]))
    rejects = np.searchsorted(np.sort(same), thresholds, side="left") / len(same)
    accepts = 1 - np.searchsorted(np.sort(different), thresholds, side="left") / len(different)
    at = np.argmin(np.abs(rejects - accepts))
    return float((rejects[at] + accepts[at]) / 2)

"""Means with confidence intervals. Pictures of one person are not independent, so people are resampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cfpp.data.draws import generator


@dataclass(frozen=True)
class Estimate:
    """A mean and its percentile interval. `low` and `high` are None when there is one cluster only."""

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap over clusters.

    Args:
        resamples: number of resamples.
        confidence: coverage of the interval, 0 to 1.
        seed: with the words given to `mean`, the only source of randomness.
    """

    resamples: int
    confidence: float
    seed: int

    def mean(self, values: np.ndarray, clusters: Sequence[str], *words: str) -> Estimate:
        """Mean of `values` [n], resampling whole clusters [n] (people) with replacement.

        The mean is over values, so a person with more pictures weighs more. Values that are not finite
        are refused: what cannot be measured must be left out, and counted, by the caller.

        Raises:
            ValueError: no values, values that are not finite, or lengths that differ.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 1 or len(values) != len(clusters) or len(values) == 0:
            raise ValueError(f"expected values [n] and n clusters, found {values.shape} and {len(clusters)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{np.sum(~np.isfinite(values))} of {len(values)} values are not finite")
        names, index = np.unique(np.asarray(clusters), return_inverse=True)
        mean = float(values.mean())
        if len(names) == 1:
            return Estimate(mean, None, None, len(values), 1)
        sums = np.bincount(index, weights=values)
        counts = np.bincount(index).astype(np.float64)
        rng = generator(self.seed, "bootstrap", *words)
        draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=self.resamples)
        means = (draws @ sums) / (draws @ counts)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(means, [tail, 1 - tail])
        return Estimate(mean, float(low), float(high), len(values), len(names))

    def difference(
        self, first: np.ndarray, second: np.ndarray, clusters: Sequence[str], *words: str
    ) -> Estimate:
        """Mean of first - second, paired by position: both [n], of the same pictures in the same order."""
        first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
        if first.shape != second.shape:
            raise ValueError(f"expected pairs, found {first.shape} and {second.shape}")
        return self.mean(first - second, clusters, *words)

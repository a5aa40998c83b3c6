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
        return self._estimate(values, np.ones(np.shape(values)), clusters, words)

    def reduction(
        self, first: np.ndarray, second: np.ndarray, clusters: Sequence[str], *words: str
    ) -> Estimate:
        """1 - mean of first / mean of second, both [n], of the same pictures in the same order.

        Raises:
            ValueError: as `mean`; or second is 0 or less in a resample.
        """
        ratio = self._estimate(first, second, clusters, words)
        low, high = ratio.low, ratio.high
        return Estimate(
            mean=1 - ratio.mean,
            low=None if high is None else 1 - high,
            high=None if low is None else 1 - low,
            n=ratio.n,
            clusters=ratio.clusters,
        )

    def difference(
        self, first: np.ndarray, second: np.ndarray, clusters: Sequence[str], *words: str
    ) -> Estimate:
        """Mean of first - second, paired by position: both [n], of the same pictures in the same order."""
        first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
        if first.shape != second.shape:
            raise ValueError(f"expected pairs, found {first.shape} and {second.shape}")
        return self.mean(first - second, clusters, *words)

    def _estimate(
        self, values: np.ndarray, weights: np.ndarray, clusters: Sequence[str], words: tuple[str, ...]
    ) -> Estimate:
        """Sum of values over sum of weights."""
        values, weights = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        if values.shape != weights.shape:
            raise ValueError(f"expected pairs, found {values.shape} and {weights.shape}")
        if values.ndim != 1 or len(values) != len(clusters) or len(values) == 0:
            raise ValueError(f"expected values [n] and n clusters, found {values.shape} and {len(clusters)}")
        if not (np.isfinite(values).all() and np.isfinite(weights).all()):
            raise ValueError(f"{np.sum(~np.isfinite(values))} of {len(values)} values are not finite")
        names, index = np.unique(np.asarray(clusters), return_inverse=True)
        if weights.sum() <= 0:
            raise ValueError("the second figure is 0: nothing can be said of a share of it")
        mean = float(values.sum() / weights.sum())
        if len(names) == 1:
            return Estimate(mean, None, None, len(values), 1)
        sums = np.bincount(index, weights=values)
        totals = np.bincount(index, weights=weights)
        rng = generator(self.seed, "bootstrap", *words)
        draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=self.resamples)
        resampled = draws @ totals
        if (resampled <= 0).any():
            raise ValueError("the second figure is 0 in a resample: nothing can be said of a share of it")
        means = (draws @ sums) / resampled
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(means, [tail, 1 - tail])
        return Estimate(mean, float(low), float(high), len(values), len(names))

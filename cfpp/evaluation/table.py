"""From one row per picture to means, intervals and paired differences: what metrics.json holds."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from cfpp.evaluation.bootstrap import Bootstrap, Estimate
from cfpp.evaluation.measure import KINDS, Figures
from cfpp.evaluation.metrics import METRICS, Metric

# First minus second, of the same face under the same degradation.
COMPARISONS = (("out", "id"), ("out", "gp"), ("out", "mean"), ("out", "ap"), ("warp", "gp"))


def figure_rows(keys: list[str], variants: list[int], people: list[str], figures: Figures) -> pd.DataFrame:
    """One row per picture: key, variant, person, kind and the metrics; NaN where one does not apply."""
    frames = [
        pd.DataFrame({"key": keys, "variant": variants, "person": people, "kind": kind} | columns)
        for kind, columns in figures.items()
    ]
    rows = pd.concat(frames, ignore_index=True)
    names = [metric.name for metric in METRICS if metric.name in rows]
    return rows[["key", "variant", "person", "kind", *names]]


def summarise(rows: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Any]:
    """Means and paired differences with intervals.

    Returns:
        `pictures`: kind to metric to {mean, low, high, n, people}; `alignment`: see there;
        `differences`: "out-id", ... to metric to the same, first minus second. For a metric whose best value
        is 1 the difference is of the distances from 1, under `{metric}_from_1`. Six significant digits; low
        and high are null for one person.
    """
    return {
        "pictures": means(rows, bootstrap, KINDS),
        "differences": differences(rows, bootstrap, COMPARISONS),
        "alignment": alignment(rows, bootstrap),
    }


def means(rows: pd.DataFrame, bootstrap: Bootstrap, kinds: Iterable[str]) -> dict[str, Any]:
    """Kind to metric to {mean, low, high, n, people}."""
    pictures: dict[str, Any] = {}
    for kind in kinds:
        own = rows[rows["kind"] == kind]
        pictures[kind] = {
            metric.name: plain(
                bootstrap.mean(_values(own, metric), own["person"].tolist(), kind, metric.name)
            )
            for metric in METRICS
            if _applies(own, metric)
        }
    return pictures


def differences(
    rows: pd.DataFrame, bootstrap: Bootstrap, comparisons: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """ "first-second" to metric to {mean, low, high, n, people} of the paired differences."""
    paired: dict[str, Any] = {}
    for first, second in comparisons:
        pair = f"{first}-{second}"
        paired[pair] = {}
        a, b = _ordered(rows, first), _ordered(rows, second)
        for metric in METRICS:
            if _applies(a, metric) and _applies(b, metric):
                x, y = _values(a, metric), _values(b, metric)
                if metric.better == "one":
                    x, y = np.abs(x - 1), np.abs(y - 1)
                estimate = bootstrap.difference(x, y, a["person"].tolist(), pair, metric.name)
                paired[pair][difference_name(metric)] = plain(estimate)
    return paired


def difference(
    rows: pd.DataFrame, bootstrap: Bootstrap, first: str, second: str, metric: str
) -> dict[str, Any]:
    """{mean, low, high, n, people} of a metric's paired differences, its values taken as they are."""
    a, b = _ordered(rows, first), _ordered(rows, second)
    x, y = (frame[metric].to_numpy(dtype=np.float64) for frame in (a, b))
    return plain(bootstrap.difference(x, y, a["person"].tolist(), f"{first}-{second}", f"{metric} as it is"))


def alignment(rows: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """By which share DAM lowers the distance of I_G's landmarks to I_F's; None without landmarks.

    {mean, low, high, n, people} of 1 - error of I_warp / error of I_G; 1 is perfect, below 0 is harm.
    """
    warped, still = _ordered(rows, "warp"), _ordered(rows, "gp")
    if "landmark_id" not in rows or not (still["landmark_id"] > 0).any():
        return None
    first, second = (frame["landmark_id"].to_numpy(dtype=np.float64) for frame in (warped, still))
    return plain(bootstrap.reduction(first, second, still["person"].tolist(), "alignment"))


def difference_name(metric: Metric) -> str:
    """The key of a metric among the differences."""
    return f"{metric.name}_from_1" if metric.better == "one" else metric.name


def verdict(metric: Metric, difference: dict[str, Any]) -> str:
    """What a paired difference says of its first picture: better, worse, or undecided."""
    low, high = difference["low"], difference["high"]
    if low is None or low <= 0 <= high:
        return "undecided"
    return "better" if (low > 0) == (metric.better == "high") else "worse"


def best_kind(pictures: dict[str, Any], metric: Metric) -> str | None:
    """The kind with the best mean; None where the metric has fewer than two."""
    found = {
        kind: figures[metric.name]["mean"] for kind, figures in pictures.items() if metric.name in figures
    }
    if len(found) < 2:
        return None
    if metric.better == "one":
        return min(found, key=lambda kind: abs(found[kind] - 1))
    sign = -1 if metric.better == "high" else 1
    return min(found, key=lambda kind: sign * found[kind])


def flat(summary: dict[str, Any]) -> dict[str, float]:
    """Means only, as `out.psnr` or `out-id.psnr`, for MLflow."""
    groups = summary["pictures"] | summary["differences"]
    figures_by_name = {
        f"{group}.{name}": figure["mean"]
        for group, figures in groups.items()
        for name, figure in figures.items()
    }
    aligned = summary["alignment"]
    return figures_by_name | ({} if aligned is None else {"alignment.landmark_reduction": aligned["mean"]})


def kinds_frame(summary: dict[str, Any]) -> pd.DataFrame:
    """Wide table for DVC plots: one row per kind; each metric's mean, low and high."""
    rows = []
    for kind, figures in summary["pictures"].items():
        row: dict[str, Any] = {"kind": kind}
        for name, figure in figures.items():
            row |= {name: figure["mean"], f"{name}_low": figure["low"], f"{name}_high": figure["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def plain(estimate: Estimate) -> dict[str, Any]:
    """{mean, low, high, n, people} with six significant digits."""
    bounds = {
        name: None if value is None else float(f"{value:.6g}")
        for name, value in (("mean", estimate.mean), ("low", estimate.low), ("high", estimate.high))
    }
    return bounds | {"n": estimate.n, "people": estimate.clusters}


def _applies(rows: pd.DataFrame, metric: Metric) -> bool:
    return metric.name in rows and bool(rows[metric.name].notna().any())


def _values(rows: pd.DataFrame, metric: Metric) -> np.ndarray:
    return rows[metric.name].to_numpy(dtype=np.float64)


def _ordered(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    return rows[rows["kind"] == kind].sort_values(["key", "variant"])

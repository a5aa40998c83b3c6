"""Ablations side by side: what I_out loses or gains on the same held-out faces where one part is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cfpp.errors import MendableError
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.metrics import METRICS, Metric
from cfpp.evaluation.report import figure
from cfpp.evaluation.table import alignment, difference_name, differences, means, verdict

FULL = "full"
_PLACE = ["key", "variant", "person"]


class AblationError(MendableError, ValueError):
    """Experiments that cannot be compared, or a name that is none of them."""


@dataclass(frozen=True)
class Ablation:
    """The method with something changed.

    Attributes:
        name: of the experiment.
        title: for people.
        overrides: dotted keys of params.yaml and their values; none: the method as params.yaml has it.
    """

    name: str
    title: str
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shows_alignment(self) -> bool:
        """Whether its DAM is worth a row: its own, or that of the full method."""
        return all(key.startswith("train_dam.") for key in self.overrides)


@dataclass(frozen=True)
class Outcome:
    """What came of an ablation.

    Attributes:
        ablation: which.
        rows: by seed, what per_image.csv holds: key, variant, person, kind and metrics.
        failed: by seed, why there are none.
        void: why there is nothing to run; "" if there is.
        made_from: by seed, what the rows were made from: a thing and its name or sha256.
    """

    ablation: Ablation
    rows: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    void: str = ""
    made_from: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


def read_rows(path: Path) -> pd.DataFrame:
    """A per_image.csv; keys and people stay text, whatever they look like.

    Raises:
        AblationError: the file is missing, or has not these columns.
    """
    try:
        rows = pd.read_csv(path, dtype={"key": str, "person": str}, keep_default_na=False, na_values=[""])
    except (FileNotFoundError, ValueError) as error:
        raise AblationError(f"{path}: no table of the evaluation ({error})") from error
    missing = [name for name in (*_PLACE, "kind") if name not in rows]
    if missing:
        raise AblationError(f"{path}: lacks the column {missing[0]}; not written by the evaluation")
    return rows


def tabulate(outcomes: Sequence[Outcome], bootstrap: Bootstrap) -> dict[str, Any]:
    """Means of I_out, and its paired differences to the full method, ablated minus full.

    Seeds are averaged: a face counts once per seed in the mean, and people, with all that is theirs, are
    resampled for the interval. That says nothing of trainings: how far seeds lie apart is stated beside it,
    and where they contradict each other the verdict is undecided. A metric that a seed lacks is left out.

    Args:
        outcomes: the full method first. An ablation is compared over the seeds that both have; a seed's
            results that were made from something else than the full method's first stand under `failed`.

    Returns:
        Name to `title`, `overrides`, `seeds`, `failed` {seed: reason}, `void`; `means`, metric to {mean, low,
        high, n, people, by_seed, spread}; `differences`, likewise with `agree`, whether all seeds have the
        same sign, and `verdict` (of the ablated one: better, worse, undecided), a metric whose best value is
        1 under `{metric}_from_1`; `alignment` {mean, low, high, ...}, the share by which DAM lowers the
        landmark error of I_G, and `folded`, percent of pixels, where the DAM is the full method's or its own.
        `spread` is the standard deviation over the seeds' means; it and `agree` are null for one seed. n
        counts faces.
    """
    full = outcomes[0]
    if full.ablation.name != FULL:
        raise AblationError(f"{full.ablation.name}: stands where the full method must")
    return {outcome.ablation.name: _entry(outcome, full, bootstrap) for outcome in outcomes}


def same_origin(full: Mapping[str, str], other: Mapping[str, str]) -> None:
    """Check that both were made from the same, where both say so: without a loss its network is not named.

    Raises:
        AblationError: they were not; names the first that differs, and what to do.
    """
    for what in sorted(full.keys() & other.keys()):
        if full[what] != other[what]:
            raise AblationError(
                f"{what}: {other[what]}, where the full method of the first seed has {full[what]}; "
                f"bring the project up to date by `dvc repro --force evaluate`, then run this again"
            )


def same_faces(full: pd.DataFrame, other: pd.DataFrame) -> None:
    """Check that both measured the same faces under the same degradations, each once.

    Raises:
        AblationError: they did not; names how many and the first.
    """
    places = []
    for rows in (full, other):
        own = rows.loc[rows["kind"] == "out", _PLACE]
        twice = own[own.duplicated(["key", "variant"])]
        if len(twice):
            raise AblationError(f"{len(twice)} faces were measured twice, first {twice.iloc[0]['key']}")
        places.append(set(own.itertuples(index=False, name=None)))
    odd = sorted(places[0] ^ places[1])
    if odd:
        key, variant, _ = odd[0]
        raise AblationError(
            f"{len(odd)} faces were measured in one experiment only, first {key} (variant {variant}); "
            f"paired differences need the same test split"
        )
    if not places[0]:
        raise AblationError("no face was measured")


def markdown(table: Mapping[str, Any]) -> str:
    """The table for people: differences first, then means, then DAM, then what is missing."""
    ran = {name: entry for name, entry in table.items() if entry["means"]}
    metrics = [metric for metric in METRICS if any(metric.name in entry["means"] for entry in ran.values())]
    parts = ["# Ablations\n"]
    if FULL in ran:
        parts.append(_about(table))
        headings = [m.title + (" from 1" if m.better == "one" else "") for m in metrics]
        lines = [
            [entry["title"], _seeds(entry)]
            + [_difference(entry["differences"].get(difference_name(m)), m) for m in metrics]
            for name, entry in ran.items()
            if name != FULL
        ]
        parts += ["## I_out against that of the full method\n", _grid(["", "seeds", *headings], lines)]
        titles = [f"{m.title}{', ' + m.unit if m.unit else ''}" for m in metrics]
        lines = [
            [entry["title"], *(_interval(entry["means"].get(m.name), m) for m in metrics)]
            for entry in ran.values()
        ]
        parts += ["## I_out\n", _grid(["", *titles], lines)]
    warped = [entry for entry in ran.values() if entry["alignment"] or entry["folded"]]
    if warped:
        lines = [[e["title"], _percent(e["alignment"], 100), _percent(e["folded"], 1)] for e in warped]
        heading = ["", "landmark error of I_G lowered by, %", "folded pixels, %"]
        parts += ["## DAM\n", _grid(heading, lines)]
    left_out = [f"- {entry['title']}: {entry['void']}" for entry in table.values() if entry["void"]]
    left_out += [
        f"- {entry['title']}, seed {seed}: FAILED, {reason}"
        for entry in table.values()
        for seed, reason in entry["failed"].items()
    ]
    if left_out:
        parts += ["## Not in these tables\n", "\n".join(left_out) + "\n"]
    return "\n".join(parts)


def _entry(outcome: Outcome, full: Outcome, bootstrap: Bootstrap) -> dict[str, Any]:
    ablation, rows, failed = outcome.ablation, dict(outcome.rows), dict(outcome.failed)
    origin = full.made_from.get(min(full.rows, default=0), {})
    for seed in list(rows):
        try:
            if seed not in full.rows:
                raise AblationError("the full method has no result to compare with")
            for made_from in (full.made_from, outcome.made_from):
                same_origin(origin, made_from.get(seed, {}))
            same_faces(full.rows[seed], rows[seed])
        except AblationError as error:
            failed[seed] = str(error)
            del rows[seed]
    entry: dict[str, Any] = {
        "title": ablation.title,
        "overrides": dict(ablation.overrides),
        "seeds": sorted(rows),
        "failed": {str(seed): reason for seed, reason in sorted(failed.items())},
        "void": outcome.void,
        "means": {},
        "differences": {},
        "alignment": None,
        "folded": None,
    }
    if not rows:
        return entry
    stacked = _stack(rows)
    entry["means"] = _with_seeds(
        means(stacked, bootstrap, ["out"])["out"],
        {m.name: [_mean(rows[seed], m.name) for seed in sorted(rows)] for m in METRICS},
        len(rows),
    )
    if ablation.name != FULL:
        entry["differences"] = _differences(ablation.name, rows, full.rows, bootstrap)
    if ablation.shows_alignment:
        entry["alignment"] = alignment(stacked, bootstrap)
        entry["folded"] = means(stacked, bootstrap, ["warp"])["warp"].get("folded")
    return entry


def _differences(
    name: str, rows: Mapping[int, pd.DataFrame], full: Mapping[int, pd.DataFrame], bootstrap: Bootstrap
) -> dict[str, Any]:
    seeds = sorted(rows)
    frames = {name: _stack(rows), FULL: _stack({seed: full[seed] for seed in seeds})}
    both = pd.concat(
        [frame[frame["kind"] == "out"].assign(kind=label) for label, frame in frames.items()],
        ignore_index=True,
    )
    found = differences(both, bootstrap, [(name, FULL)])[f"{name}-{FULL}"]
    by_seed = {
        difference_name(m): [_distance(rows[seed], m) - _distance(full[seed], m) for seed in seeds]
        for m in METRICS
    }
    figures = _with_seeds(found, by_seed, len(seeds))
    for metric in METRICS:
        if difference_name(metric) in figures:
            entry = figures[difference_name(metric)]
            signs = set(np.sign(by_seed[difference_name(metric)]))
            entry["agree"] = len(signs) == 1 if len(seeds) > 1 else None
            entry["verdict"] = "undecided" if entry["agree"] is False else verdict(metric, entry)
    return figures


def _stack(rows: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """All seeds as one table, whose keys name the seed, without metrics of a kind that a seed lacks."""
    frames = [frame.assign(key=frame["key"] + f" seed {seed}") for seed, frame in sorted(rows.items())]
    stacked = pd.concat(frames, ignore_index=True)
    kinds = stacked.groupby("kind")
    for name in [metric.name for metric in METRICS if metric.name in stacked]:
        stacked[name] = stacked[name].where(kinds[name].transform("count") == kinds[name].transform("size"))
    return stacked


def _with_seeds(
    figures: Mapping[str, Mapping[str, Any]], by_seed: Mapping[str, list[float]], seeds: int
) -> dict[str, dict[str, Any]]:
    found = {}
    for name, estimate in figures.items():
        each = by_seed[name]
        spread = float(np.std(each, ddof=1)) if seeds > 1 else None
        rounded = {"by_seed": [_rounded(value) for value in each], "spread": _rounded(spread)}
        found[name] = {**estimate, "n": estimate["n"] // seeds, **rounded}
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _mean(rows: pd.DataFrame, metric: str) -> float:
    own = rows.loc[rows["kind"] == "out"]
    return float(own[metric].mean()) if metric in own else float("nan")


def _distance(rows: pd.DataFrame, metric: Metric) -> float:
    """Mean of I_out's figure, or of its distance from 1 where that is best."""
    if metric.better != "one" or metric.name not in rows:
        return _mean(rows, metric.name)
    return float((rows.loc[rows["kind"] == "out", metric.name] - 1).abs().mean())


def _about(table: Mapping[str, Any]) -> str:
    some = next(iter(table[FULL]["means"].values()))
    single = any(len(entry["seeds"]) == 1 for entry in table.values())
    unknown = " One seed does not tell how far another training would lie." if single else ""
    return (
        f"Ablated minus full, paired on the same {some['n']} held-out faces of {some['people']} people; in "
        f"parentheses bootstrap intervals that resample people. **Bold**: the interval lies apart from 0, "
        f"and all seeds on one side of it. ±: standard deviation over seeds.{unknown}\n"
    )


def _seeds(entry: Mapping[str, Any]) -> str:
    return ", ".join(map(str, entry["seeds"]))


def _difference(estimate: Mapping[str, Any] | None, metric: Metric) -> str:
    if estimate is None:
        return "–"
    text = _interval(estimate, metric, sign=True)
    return text if estimate["verdict"] == "undecided" else f"**{text}** {estimate['verdict']}"


def _interval(estimate: Mapping[str, Any] | None, metric: Metric, sign: bool = False) -> str:
    if estimate is None:
        return "–"

    def show(value: float | None) -> str:
        return f"{'+' if sign and value is not None and value >= 0 else ''}{figure(value, metric)}"

    spread = "" if estimate["spread"] is None else f" ± {figure(estimate['spread'], metric)}"
    return f"{show(estimate['mean'])} ({show(estimate['low'])} to {show(estimate['high'])}){spread}"


def _percent(estimate: Mapping[str, Any] | None, scale: float) -> str:
    if estimate is None:
        return "unavailable"
    values = [estimate[name] for name in ("mean", "low", "high")]
    mean, low, high = ("–" if value is None else f"{scale * value:.3g}" for value in values)
    return f"{mean} ({low} to {high})"


def _grid(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heading, ["---"] * len(heading), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)

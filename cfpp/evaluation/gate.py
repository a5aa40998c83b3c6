"""The gate: whether a challenger may become champion, by the scores of both on the same faces.

Every rule, every floor and the latency ceiling must hold. What cannot be measured does not hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cfpp.evaluation.bootstrap import Bootstrap, Estimate
from cfpp.evaluation.improvement import (
    LEAST_PEOPLE,
    deviation,
    improvements,
    mean_improvement,
    people_needed,
)
from cfpp.evaluation.metrics import METRICS, Metric
from cfpp.evaluation.table import plain
from cfpp.gate_params import FloorParams, PromoteParams, RuleParams
from cfpp.schema import ParamsError

CHAMPION, CHALLENGER = "champion", "challenger"  # kinds of the scores
POWER = 0.8  # with which a challenger that is better by every rule's effect is promoted

# What the gate can measure: full-reference figures of I_out.
JUDGED = {metric.name: metric for metric in METRICS if metric.against == "I_HQ"}


@dataclass(frozen=True)
class RuleVerdict:
    """What a rule found.

    Attributes:
        champion, challenger: means; None where there are none.
        improvement: see `mean_improvement`; None where it cannot be said.
        needed: people that it takes to see the rule's effect; None where it cannot be said.
        fault: why it cannot be judged, else "".
    """

    rule: RuleParams
    champion: float | None
    challenger: float | None
    improvement: Estimate | None
    needed: int | None
    fault: str

    @property
    def passed(self) -> bool:
        low = None if self.improvement is None else self.improvement.low
        return not self.fault and low is not None and low > self.rule.margin

    @property
    def label(self) -> str:
        return self.rule.metric

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.rule.metric,
            "margin": self.rule.margin,
            "effect": self.rule.effect,
            "champion": _short(self.champion),
            "challenger": _short(self.challenger),
            "improvement": None if self.improvement is None else plain(self.improvement),
            "people_needed": self.needed,
            "passed": self.passed,
            "fault": self.fault,
        }


@dataclass(frozen=True)
class LimitVerdict:
    """What a floor, or the ceiling of the latency, found.

    Attributes:
        label: the metric, or latency.
        limit: what must be reached: at least, at most, or within that distance of 1.
        kind: of the limit: at least, at most, within.
        found: the challenger's mean; None where there is none.
        passed: whether it holds.
        fault: why there is none, else "".
    """

    label: str
    limit: float
    kind: str
    found: float | None
    passed: bool
    fault: str

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.label,
            "limit": self.limit,
            "kind": self.kind,
            "challenger": _short(self.found),
            "passed": self.passed,
            "fault": self.fault,
        }


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        rules: empty where there is no champion yet.
        limits: floors and latency.
        people: in the test set.
    """

    rules: tuple[RuleVerdict, ...]
    limits: tuple[LimitVerdict, ...]
    people: int

    @property
    def failed(self) -> list[str]:
        """Labels of what does not hold."""
        rules = [verdict.label for verdict in self.rules if not verdict.passed]
        return rules + [verdict.label for verdict in self.limits if not verdict.passed]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def needed(self) -> int | None:
        """People that all rules together take; None where one cannot say."""
        known = [rule.needed for rule in self.rules if rule.needed is not None]
        return max(known) if known and len(known) == len(self.rules) else None


def check_metrics(params: PromoteParams) -> None:
    """Whether the gate can measure what the section names.

    Raises:
        ParamsError: it cannot.
    """
    named = {f"rules[{place}]": rule.metric for place, rule in enumerate(params.rules)}
    named |= {f"floors[{place}]": floor.metric for place, floor in enumerate(params.floors)}
    for key, metric in named.items():
        if metric not in JUDGED:
            known = ", ".join(JUDGED)
            raise ParamsError(f"promote.{key}.metric: must be one of {known}, found {metric!r}")


def judge(
    scores: pd.DataFrame,
    params: PromoteParams,
    bootstrap: Bootstrap,
    *,
    against_champion: bool,
    latency: float,
    reasons: Mapping[str, str],
) -> Judgement:
    """Judge a challenger.

    Args:
        scores: key, variant, person, kind (champion, challenger) and the metrics; the same faces for both.
        params: the rules and limits.
        bootstrap: with the confidence of the rules.
        against_champion: whether there is one to be better than; its scores may be missing all the same.
        latency: of the challenger, seconds a face.
        reasons: metric to the reason why it was not measured.
    """

    def why(metric: str) -> str:
        return reasons.get(metric, "not measured")

    # every rule must hold at once: the share that each may miss is divided among them
    power = 1 - (1 - POWER) / max(1, len(params.rules))
    rules = params.rules if against_champion else ()
    limits = [_floor(scores, floor, why) for floor in params.floors]
    if params.latency_ceiling > 0:
        held = latency <= params.latency_ceiling
        limits.append(LimitVerdict("latency", params.latency_ceiling, "at most", latency, held, ""))
    return Judgement(
        tuple(_rule(scores, rule, bootstrap, power, why) for rule in rules),
        tuple(limits),
        int(scores["person"].nunique()),
    )


def gains_of(scores: pd.DataFrame, metric: Metric) -> tuple[np.ndarray, list[str]]:
    """What each face gains by the challenger, [n], and who it is of.

    Raises:
        ValueError: the two kinds have other faces.
    """
    before, after = (_ordered(scores, kind) for kind in (CHAMPION, CHALLENGER))
    columns = ["key", "variant"]
    if before[columns].to_numpy().tolist() != after[columns].to_numpy().tolist():
        raise ValueError("champion and challenger were measured on other faces")
    x, y = (frame[metric.name].to_numpy(dtype=np.float64) for frame in (before, after))
    return improvements(metric, x, y), after["person"].astype(str).tolist()


def _rule(
    scores: pd.DataFrame, rule: RuleParams, bootstrap: Bootstrap, power: float, why: Callable[[str], str]
) -> RuleVerdict:
    champion, challenger = (_mean(scores, kind, rule.metric) for kind in (CHAMPION, CHALLENGER))
    if champion is None or challenger is None:
        unopened = not (scores["kind"] == CHAMPION).any()
        fault = "the champion cannot be measured" if unopened else why(rule.metric)
        return RuleVerdict(rule, champion, challenger, None, None, fault)
    gains, people = gains_of(scores, JUDGED[rule.metric])
    if not np.isfinite(gains).all():
        fault = f"{np.sum(~np.isfinite(gains))} of {len(gains)} faces have no figure"
        return RuleVerdict(rule, champion, challenger, None, None, fault)
    found = mean_improvement(gains, people, bootstrap, "gate", rule.metric)
    if found.clusters < LEAST_PEOPLE:
        fault = f"{found.clusters} people say nothing; {LEAST_PEOPLE} or more are needed"
        return RuleVerdict(rule, champion, challenger, found, None, fault)
    needed = people_needed(deviation(gains, people), rule.effect - rule.margin, bootstrap.confidence, power)
    return RuleVerdict(rule, champion, challenger, found, needed, "")


def _floor(scores: pd.DataFrame, floor: FloorParams, why: Callable[[str], str]) -> LimitVerdict:
    metric, found = JUDGED[floor.metric], _mean(scores, CHALLENGER, floor.metric)
    kind = {"high": "at least", "low": "at most", "one": "within"}[metric.better]
    if found is None:
        return LimitVerdict(floor.metric, floor.value, kind, None, False, why(floor.metric))
    held = {
        "high": found >= floor.value,
        "low": found <= floor.value,
        "one": abs(found - 1) <= floor.value,
    }[metric.better]
    return LimitVerdict(floor.metric, floor.value, kind, found, held, "")


def _mean(scores: pd.DataFrame, kind: str, metric: str) -> float | None:
    if metric not in scores:
        return None
    values = scores.loc[scores["kind"] == kind, metric].to_numpy(dtype=np.float64)
    return float(values.mean()) if len(values) and not np.isnan(values).all() else None


def _ordered(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    return scores[scores["kind"] == kind].sort_values(["key", "variant"])


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")

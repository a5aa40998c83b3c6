"""The section `promote` of params.yaml: what a challenger must show before it becomes the champion."""

from dataclasses import dataclass

from cfpp.schema import not_negative, require


@dataclass(frozen=True, kw_only=True)
class RuleParams:
    """Better than the champion by at least `margin`, or, below 0, not worse by more than that.

    Both are in the metric's unit, the sign turned so that more is better.
    """

    metric: str
    margin: float
    effect: float

    def __post_init__(self) -> None:
        require(self.effect > self.margin, "effect", f"be above margin {self.margin:g}", self.effect)


@dataclass(frozen=True, kw_only=True)
class FloorParams:
    """The worst mean that will do, whoever is champion."""

    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class PromoteParams:
    rules: tuple[RuleParams, ...]
    floors: tuple[FloorParams, ...]
    latency_ceiling: float
    confidence: float

    def __post_init__(self) -> None:
        strict = any(rule.margin >= 0 for rule in self.rules)
        require(strict, "rules", "have one or more with margin 0 or above", [r.margin for r in self.rules])
        for name in ("rules", "floors"):
            metrics = [item.metric for item in getattr(self, name)]
            require(len(set(metrics)) == len(metrics), name, "name each metric once", metrics)
        not_negative(self, "latency_ceiling")
        require(0 < self.confidence < 1, "confidence", "be above 0 and below 1", self.confidence)

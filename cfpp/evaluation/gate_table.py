"""What the gate says, for people: markdown."""

from cfpp.evaluation.gate import JUDGED, POWER, Judgement, LimitVerdict, RuleVerdict
from cfpp.evaluation.metrics import Metric

_RULES = ("rule", "champion", "challenger", "improvement", "interval", "above", "people", "needed", "verdict")
_LIMITS = ("limit", "challenger", "must be", "verdict")


def markdown(judgement: Judgement) -> str:
    """Tables of rules and limits, and what to know about the size of the test set."""
    lines: list[str] = []
    if judgement.rules:
        lines += [*_table(_RULES, [_rule(verdict, judgement.people) for verdict in judgement.rules]), ""]
    if judgement.limits:
        lines += [*_table(_LIMITS, [_limit(verdict) for verdict in judgement.limits]), ""]
    return "\n".join(lines + warnings(judgement)).rstrip() + "\n"


def warnings(judgement: Judgement) -> list[str]:
    """Where the test set is smaller than the rules need."""
    found = []
    for verdict in judgement.rules:
        if verdict.needed is not None and judgement.people < verdict.needed:
            found.append(
                f"**Too few people**: {judgement.people} in the test set, {verdict.needed} needed. A "
                f"challenger whose true improvement in {JUDGED[verdict.label].title} is "
                f"{verdict.rule.effect:+g} (effect) may be refused in more than {100 * (1 - POWER):.0f} % of "
                "cases. Test on more people, or be content to see a larger effect only."
            )
    return found


def _rule(verdict: RuleVerdict, people: int) -> list[str]:
    metric, found, rule = JUDGED[verdict.rule.metric], verdict.improvement, verdict.rule
    wanted = f"{_heading(metric)} {'better' if rule.margin >= 0 else 'not worse'}"
    by = "" if rule.margin == 0 else f" {'by' if rule.margin > 0 else 'by more than'} {abs(rule.margin):g}"
    interval = "" if found is None or found.low is None else f"{found.low:+.4f} to {found.high:+.4f}"
    return [
        wanted + by,
        _number(verdict.champion),
        _number(verdict.challenger),
        "" if found is None else f"{found.mean:+.4f}",
        interval,
        f"{rule.margin:g}",
        str(people),
        "" if verdict.needed is None else str(verdict.needed),
        _outcome(verdict.passed, verdict.fault),
    ]


def _limit(verdict: LimitVerdict) -> list[str]:
    seconds = verdict.label == "latency"
    wanted = f"{verdict.kind} {verdict.limit:g}" + (" of 1" if verdict.kind == "within" else "")
    return [
        "Seconds a face, batch 1" if seconds else _heading(JUDGED[verdict.label]),
        _number(verdict.found),
        wanted,
        _outcome(verdict.passed, verdict.fault),
    ]


def _outcome(passed: bool, fault: str) -> str:
    return "passed" if passed else f"**failed**{f': {fault}' if fault else ''}"


def _heading(metric: Metric) -> str:
    aim = {"high": "high", "low": "low", "one": "1 is best"}[metric.better]
    return f"{metric.title}{f', {metric.unit}' if metric.unit else ''} ({aim})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Markdown, with columns of one width, so that a log shows it well, too."""
    table = [list(heads), *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]

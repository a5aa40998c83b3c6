"""The report: one HTML file that holds everything, pictures and plots included."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2

from cfpp.evaluation.measure import KINDS
from cfpp.evaluation.metrics import METRICS, Metric
from cfpp.evaluation.panels import STEPS, Panel, colour_wheel, data_uri
from cfpp.evaluation.table import COMPARISONS, best_kind, difference_name, verdict

_PLACES = {
    "psnr": 2,
    "ssim": 4,
    "nlpd": 4,
    "lpips": 4,
    "lpips_alex": 4,
    "lpips_vgg": 4,
    "identity": 4,
    "texture": 3,
}


@dataclass(frozen=True)
class Plots:
    """SVG texts; None where there is nothing to draw."""

    means: str
    landmarks: str | None
    curves: str | None


def render_report(
    summary: Mapping[str, Any], panels: list[Panel], plots: Plots, lineage: Mapping[str, str]
) -> str:
    """The report as HTML; that of a controlled study says so before anything else.

    Args:
        summary: what metrics.json holds: `pictures`, `differences`, `alignment`, `unavailable`,
            `instruments`, `about`.
        panels: faces to show through every step.
        plots: figures.
        lineage: what made these models, name to value: commit, manifest, run.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("cfpp.evaluation").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    metrics = [m for m in METRICS if any(m.name in figures for figures in summary["pictures"].values())]
    return template.render(
        about=summary["about"],
        lineage=lineage,
        metrics=[_column(metric, summary) for metric in METRICS],
        kinds=KINDS,
        rows={kind: [_cell(metric, kind, summary) for metric in metrics] for kind in KINDS},
        columns=metrics,
        comparisons=[_comparison(first, second, summary) for first, second in COMPARISONS],
        alignment=summary["alignment"],
        unavailable=summary["unavailable"],
        steps=STEPS,
        panels=[_panel(panel) for panel in panels],
        wheel=data_uri(colour_wheel()),
        means=_svg_uri(plots.means),
        landmarks=_svg_uri(plots.landmarks),
        curves=_svg_uri(plots.curves),
    )


def figure(value: float | None, metric: Metric) -> str:
    """A figure as the report writes it; what it cannot know is a dash."""
    return "–" if value is None else f"{value:.{_PLACES.get(metric.name, 2)}f}"


def _column(metric: Metric, summary: Mapping[str, Any]) -> dict[str, str]:
    aim = {"high": "higher is better", "low": "lower is better", "one": "1 is best"}[metric.better]
    state = summary["unavailable"].get(metric.name)
    tool = summary["instruments"].get(metric.name, "computed here, no network")
    return {
        "title": metric.title,
        "unit": metric.unit,
        "against": metric.against,
        "meaning": metric.meaning,
        "aim": aim,
        "tool": f"unavailable: {state}" if state else tool,
    }


def _cell(metric: Metric, kind: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    estimate = summary["pictures"][kind].get(metric.name)
    if estimate is None:
        return {"metric": metric.name, "present": False}
    return {
        "metric": metric.name,
        "present": True,
        "best": best_kind(summary["pictures"], metric) == kind,
        "mean": figure(estimate["mean"], metric),
        "low": figure(estimate["low"], metric),
        "high": figure(estimate["high"], metric),
        "exact": estimate,
    }


def _comparison(first: str, second: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    figures = summary["differences"][f"{first}-{second}"]
    lines = []
    for metric in METRICS:
        name = difference_name(metric)
        if name in figures:
            estimate = figures[name]
            lines.append(
                {
                    "name": name,
                    "title": metric.title + (" (distance from 1)" if metric.better == "one" else ""),
                    "unit": metric.unit,
                    "mean": _signed(estimate["mean"], metric),
                    "low": _signed(estimate["low"], metric),
                    "high": _signed(estimate["high"], metric),
                    "verdict": verdict(metric, estimate),
                    "exact": estimate,
                }
            )
    return {"pair": f"{first}-{second}", "first": KINDS[first], "second": KINDS[second], "lines": lines}


def _signed(value: float | None, metric: Metric) -> str:
    return "–" if value is None else f"{value:+.{_PLACES.get(metric.name, 2)}f}"


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "key": panel.key,
        "variant": panel.variant,
        "reach": f"{panel.reach:.1f}",
        "pictures": {name: data_uri(panel.pictures[name]) for name in STEPS},
    }


def _svg_uri(svg: str | None) -> str | None:
    if svg is None:
        return None
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode('utf-8')).decode('ascii')}"

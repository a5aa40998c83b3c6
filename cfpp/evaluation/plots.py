"""Figures of the report, as SVG text. The same numbers give the same bytes."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cfpp.evaluation.measure import KINDS
from cfpp.evaluation.metrics import METRICS
from cfpp.evaluation.table import best_kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, ACCENT = "#1f2933", "#8a97a6", "#c2410c"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#cbd2d9",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#e4e7eb",
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "svg.hashsalt": "cfpp",
    "svg.fonttype": "none",
}


def means_figure(summary: dict[str, Any]) -> str:
    """Mean and interval of every kind, one small plot per metric."""
    shown = [m for m in METRICS if sum(m.name in f for f in summary["pictures"].values()) > 1]
    figure, axes = _grid(len(shown), columns=4, height=2.3)
    for axis, metric in zip(axes, shown, strict=True):
        best = best_kind(summary["pictures"], metric)
        for place, kind in enumerate(KINDS):
            estimate = summary["pictures"][kind].get(metric.name)
            if estimate is None:
                continue
            colour = ACCENT if kind == "out" else INK
            if estimate["low"] is not None:
                axis.plot([estimate["low"], estimate["high"]], [place, place], color=colour, linewidth=1.6)
            axis.plot(
                estimate["mean"],
                place,
                "o",
                color=colour,
                markersize=6 if kind == best else 4,
                markerfacecolor=colour if kind == best else "white",
            )
        if metric.better == "one":
            axis.axvline(1, color=QUIET, linewidth=1, linestyle="--")
        axis.set_yticks(range(len(KINDS)), list(KINDS))
        axis.invert_yaxis()
        axis.margins(x=0.08)
        aim = {"high": "higher is better", "low": "lower is better", "one": "1 is best"}[metric.better]
        axis.set_title(metric.title)
        axis.set_xlabel(f"{metric.unit}, {aim}" if metric.unit else aim)
    return _svg(figure)


def curves_figure(curves: dict[str, pd.DataFrame]) -> str | None:
    """Training curves: one small plot per logged quantity, grouped by run; None when there are none.

    Args:
        curves: name of the run to its table, a `step` column and one column per quantity, NaN where a
            quantity was not logged at a step. `val/x` is drawn, dotted, in the plot of `x`.
    """
    plots: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for run, table in sorted(curves.items()):
        for name in table.columns:
            if name != "step" and pd.api.types.is_numeric_dtype(table[name]) and table[name].notna().any():
                points = table[["step", name]].dropna()
                plots.setdefault((run, name.replace("val/", "")), []).append(points)
    if not plots:
        return None
    figure, axes = _grid(len(plots), columns=5, height=1.7, width=2.3)
    runs = sorted(curves)
    palette = ["#2b6cb0", "#c2410c", "#2f855a", "#6b46c1", "#b7791f", "#97266d"]
    for axis, ((run, title), series) in zip(axes, plots.items(), strict=True):
        colour = palette[runs.index(run) % len(palette)]
        for points in series:
            name = points.columns[1]
            held_out = "val/" in name
            axis.plot(
                points["step"],
                points[name],
                color=INK if held_out else colour,
                marker="o" if held_out else None,
                markersize=3,
                linewidth=1.2,
                linestyle=":" if held_out else "-",
            )
        axis.set_title(f"{run}: {title}", fontsize=7.5)
        axis.tick_params(labelsize=7)
    return _svg(figure)


def landmark_figure(rows: pd.DataFrame) -> str | None:
    """Landmark error of I_G against that of I_warp, a dot per face; None when it was not measured."""
    if "landmark_id" not in rows:
        return None
    table = landmark_frame(rows)
    figure, axes = _grid(1, columns=1, height=4.0, width=4.2)
    axis = axes[0]
    limit = 1.05 * float(table[["gp", "warp"]].to_numpy().max())
    axis.plot([0, limit], [0, limit], color=QUIET, linewidth=1, linestyle="--")
    axis.scatter(table["gp"], table["warp"], s=14, color=ACCENT, alpha=0.7, linewidths=0)
    axis.set_xlim(0, limit)
    axis.set_ylim(0, limit)
    axis.set_aspect("equal")
    axis.set_xlabel("I_G to I_F, % of inter-ocular distance")
    axis.set_ylabel("I_warp to I_F, %")
    axis.set_title("Below the line: alignment helped")
    return _svg(figure)


def landmark_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns key, variant, gp, warp: landmark error to I_F, per face."""
    some = rows[rows["kind"].isin(["gp", "warp"])]
    table = some.pivot(index=["key", "variant"], columns="kind", values="landmark_id")
    return table.reset_index()[["key", "variant", "gp", "warp"]]


def read_curves(folder: Path) -> dict[str, pd.DataFrame]:
    """The CSV files that training left in `folder`, by name; none when the folder is not there."""
    return {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}


def _grid(count: int, columns: int, height: float, width: float = 2.75) -> "tuple[Figure, list[Axes]]":
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    columns = min(columns, count)
    lines = math.ceil(count / columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def _svg(figure: "Figure") -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()

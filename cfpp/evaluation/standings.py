"""What a contest shows to people: a table in plain text, and its best, median and worst faces."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cfpp.data.pictures import Picture
from cfpp.evaluation.metrics import METRICS, Metric
from cfpp.evaluation.table import difference_name, verdict

RANKING = ("lpips", "lpips_alex", "lpips_vgg", "nlpd", "niqe")
"""What faces are ranked by: the first that was measured. Lower is better for each."""

_SIDE, _GAP, _LINE = 224, 6, 18  # pixels, of faces.jpg


def table(summary: Mapping[str, Any]) -> str:
    """Means, and differences from the baseline, with intervals; and what is missing, as plain text."""
    names = list(summary["about"]["restorers"])
    about = summary["about"]
    faces, people = counted(about["faces"], "face"), counted(about["people"], "person", "people")
    lines = [f"{faces} of {people}, {about['size']} x {about['size']} pixels"]
    restorers = summary["restorers"]
    rows = [
        [f"{_heading(metric)}", *(_cell(restorers[name].get(metric.name)) for name in names)]
        for metric in METRICS
        if any(metric.name in figures for figures in restorers.values())
    ]
    for title in ("fid", "kid"):
        if summary["distributions"]:
            rows.append(
                [f"{title.upper()} (low)", *(_distance(summary["distributions"][n], title) for n in names)]
            )
    lines += ["", *_columns([["", *names], *rows])]
    baseline = about["baseline"]
    for name in names[1:] if restorers else []:
        lines += [
            "",
            f"{name} - {baseline}",
            *_columns(_differences(summary["differences"][f"{name}-{baseline}"])),
        ]
    lines += ["", *_notes(summary)]
    return "\n".join(lines)


def counted(number: int, one: str, many: str = "") -> str:
    """1 face, 2 faces; `many` where that is not `one` and an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _heading(metric: Metric) -> str:
    aim = {"high": "high", "low": "low", "one": "1 is best"}[metric.better]
    return f"{metric.title}{f', {metric.unit}' if metric.unit else ''} ({aim})"


def _cell(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return ""
    return f"{_number(estimate['mean'])} {_interval(estimate)}"


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return "[-]"
    return f"[{_number(estimate['low'])}, {_number(estimate['high'])}]"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _distance(distance: Mapping[str, Any], which: str) -> str:
    deviation = distance["kid_deviation"] if which == "kid" else None
    return f"{_number(distance[which])}" + (f" +- {_number(deviation)}" if deviation is not None else "")


def _differences(figures: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for metric in METRICS:
        name = difference_name(metric)
        if name in figures:
            estimate = figures[name]
            title = f"{metric.title}, distance from 1" if metric.better == "one" else metric.title
            sign = "+" if estimate["mean"] > 0 else ""
            rows.append([f"  {title}", f"{sign}{_cell(estimate)}", verdict(metric, estimate)])
    return rows


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text in columns."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _notes(summary: Mapping[str, Any]) -> list[str]:
    about = summary["about"]
    if about["faces"] == 1:
        notes = ["One picture bears no interval."]
    elif about["people"] == 1:
        notes = ["Pictures of one person bear no interval."]
    else:
        notes = [
            f"[low, high]: {100 * about['confidence']:g} % intervals, "
            f"{about['bootstrap']} resamples of the people, paired."
        ]
    if about["resized"]:
        notes.append(f"All pictures were brought to {about['size']} x {about['size']} pixels (--size).")
    for distance in list(summary["distributions"].values())[:1]:
        notes.append(f"FID and KID: {distance['n']} pictures against {distance['reference_n']}.")
    missing: dict[str, list[str]] = {}
    for name, reason in summary["unavailable"].items():
        missing.setdefault(reason, []).append(name)
    notes += [f"Not computed: {', '.join(names)}: {reason}" for reason, names in missing.items()]
    for source, stems in summary["not_common"].items():
        notes.append(f"Only in {source}, not measured: {len(stems)}, such as {stems[0]}.")
    for source, facts in summary["measured"].items():
        if ignored := facts.get("ignored"):
            notes.append(f"Ignored in {source}: {len(ignored)}, such as {ignored[0]}.")
    for source, pictures in summary["altered"].items():
        first, what = next(iter(pictures.items()))
        notes.append(f"Altered in {source}: {len(pictures)}, such as {first} ({what}).")
    pictures = summary["left_out"]["pictures"]
    notes += [f"Left out: {fault['stem']} of {fault['source']}: {fault['reason']}" for fault in pictures[:10]]
    if len(pictures) > 10:
        notes.append(f"Left out: {len(pictures) - 10} more, see metrics.json.")
    return notes


@dataclass(frozen=True)
class Shown:
    """A row of faces.jpg.

    Attributes:
        stem: the face.
        label: why it is shown.
    """

    stem: str
    label: str


def choose_faces(rows: pd.DataFrame, names: Sequence[str], stems: Sequence[str]) -> list[Shown]:
    """For every restorer beside the baseline its best, median and worst face by the difference from the
    baseline's (see `RANKING`); for a single restorer by its own figure.

    Args:
        rows: of `Outcome`.
        names: the restorers, baseline first.
        stems: all faces; where nothing ranks them, the first, middle and last by name.
    """
    metric = next((m for name in RANKING for m in METRICS if m.name == name and name in rows), None)
    if metric is None:
        places = sorted({0, len(stems) // 2, len(stems) - 1})
        return [Shown(stems[place], "by name") for place in places]
    values = {name: rows[rows["kind"] == name].set_index("key")[metric.name] for name in names}
    shown = []
    for name in names[1:] or names:
        against = "" if len(names) == 1 else f" - {names[0]}"
        figures = values[name] if len(names) == 1 else values[name] - values[names[0]]
        ranked = figures.sort_values(kind="stable")
        labels: dict[int, str] = {}
        for word, place in (("best", 0), ("median", (len(ranked) - 1) // 2), ("worst", len(ranked) - 1)):
            labels[place] = f"{labels[place]}, {word}" if place in labels else word
        for place, words in labels.items():
            value = f"{metric.title} {ranked.iloc[place]:{'+' if against else ''}.4f}"
            shown.append(Shown(str(ranked.index[place]), f"{name}{against}: {words}, {value}"))
    return shown


def sheet(columns: Sequence[str], shown: Sequence[Shown], picture: Callable[[str, str], Picture]) -> Picture:
    """The faces as one picture, with names.

    Args:
        columns: names of the sources, left to right.
        shown: rows, top to bottom.
        picture: (source, stem) to uint8 [S, S, 3].

    Returns:
        uint8 [H, W, 3].
    """
    width = len(columns) * (_SIDE + _GAP) - _GAP
    height = _LINE + len(shown) * (_LINE + _SIDE + _GAP)
    canvas = np.full((height, max(width, 3 * _SIDE), 3), 255, np.uint8)
    for row, face in enumerate(shown):
        top = _LINE + row * (_LINE + _SIDE + _GAP) + _LINE
        for column, name in enumerate(columns):
            left = column * (_SIDE + _GAP)
            canvas[top : top + _SIDE, left : left + _SIDE] = _at_side(picture(name, face.stem))
    image = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for column, name in enumerate(columns):
        draw.text((column * (_SIDE + _GAP) + 2, 1), name[:32], fill=(20, 20, 20), font=font)
    for row, face in enumerate(shown):
        top = _LINE + row * (_LINE + _SIDE + _GAP)
        draw.text((2, top + 1), f"{face.label}: {face.stem}", fill=(20, 20, 20), font=font)
    return np.asarray(image, dtype=np.uint8)


def _at_side(picture: Picture) -> Picture:
    how = cv2.INTER_AREA if picture.shape[0] > _SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (_SIDE, _SIDE), interpolation=how), np.uint8)

"""Pictures for the report: every step of the method for some faces, and the flow as colours."""

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.draws import unit_hash
from cfpp.data.pictures import encode_png

# What a panel shows, left to right.
STEPS = {
    "lq": "I_LQ",
    "id": "I_F",
    "gp": "I_G",
    "flow": "phi",
    "warp": "I_warp",
    "mask": "M",
    "ap": "I_AP",
    "out": "I_out",
    "hq": "I_HQ",
}
_LARGEST_PNG = 160
# Pixels: a flow shorter than this everywhere is drawn pale, as the little that it is.
LEAST_FULL_SCALE = 1.0


@dataclass(frozen=True)
class Panel:
    """One held-out face through every step.

    Args:
        key: the face; variant: its degradation.
        pictures: the names of `STEPS` to uint8 [S, S, 3], `flow` drawn by `draw_flow`.
        reach: longest displacement of its flow, pixels.
    """

    key: str
    variant: int
    pictures: dict[str, np.ndarray]
    reach: float


def choose_faces(items: list[tuple[str, int]], identities: list[str], count: int) -> list[int]:
    """Places of `count` items to show, of as many people as there are, drawn by hash and not by looks."""
    drawn = sorted(range(len(items)), key=lambda i: unit_hash("panel", *items[i]))
    first_of: dict[str, int] = {}
    for place in drawn:
        first_of.setdefault(identities[place], place)
    distinct = list(first_of.values())
    rest = [place for place in drawn if place not in set(distinct)]
    return sorted((distinct + rest)[:count])


def draw_flow(flow: np.ndarray, full_scale: float) -> np.ndarray:
    """A flow as a picture: hue is the direction, saturation the length, white is no displacement.

    Args:
        flow: [2, H, W], pixels, (row, column).
        full_scale: length, in pixels, that is drawn fully saturated; above 0.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    rows, columns = flow[0].astype(np.float64), flow[1].astype(np.float64)
    length = np.clip(np.hypot(rows, columns) / full_scale, 0, 1)
    angle = np.degrees(np.arctan2(rows, columns)) % 360
    hsv = np.stack([angle, length, np.ones_like(length)], axis=2).astype(np.float32)
    drawn: np.ndarray = np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)
    return drawn


def colour_wheel(side: int = 64) -> np.ndarray:
    """The legend of `draw_flow`: uint8 [side, side, 3]; each point shows the displacement towards it."""
    axis = np.linspace(-1, 1, side)
    columns, rows = np.meshgrid(axis, axis)
    wheel = draw_flow(np.stack([rows, columns]), 1.0)
    wheel[np.hypot(rows, columns) > 1] = 255
    return wheel


def sheet(panels: list[Panel], side: int = 128, gap: int = 4) -> np.ndarray:
    """All panels as one picture with the steps' names on top: uint8 [H, W, 3]."""
    header, count = 20, len(STEPS)
    canvas = np.full((header + len(panels) * (side + gap), count * (side + gap) - gap, 3), 255, np.uint8)
    for column, (name, title) in enumerate(STEPS.items()):
        left = column * (side + gap)
        cv2.putText(
            canvas, title, (left + 4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA
        )
        for row, panel in enumerate(panels):
            top = header + row * (side + gap)
            picture = panel.pictures[name]
            how = cv2.INTER_AREA if picture.shape[0] > side else cv2.INTER_CUBIC
            canvas[top : top + side, left : left + side] = cv2.resize(
                picture, (side, side), interpolation=how
            )
    return canvas


def data_uri(picture: np.ndarray) -> str:
    """A picture inside HTML: PNG when small, else JPEG of quality 93, which a report can hold many of."""
    if max(picture.shape[:2]) <= _LARGEST_PNG:
        kind, data = "png", encode_png(picture)
    else:
        done, buffer = cv2.imencode(
            ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 93]
        )
        if not done:
            raise ValueError(f"JPEG encoding failed for a picture of shape {picture.shape}")
        kind, data = "jpeg", buffer.tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def make_panel(key: str, variant: int, pictures: dict[str, np.ndarray], flow: np.ndarray) -> Panel:
    """A panel of one face.

    Args:
        key: the face.
        variant: its degradation.
        pictures: the pictures of `STEPS` except `flow`: uint8 [S, S, 3], `mask` [S, S].
        flow: [2, S, S], pixels.
    """
    reach = float(np.hypot(flow[0], flow[1]).max())
    shown = {name: pictures[name] for name in STEPS if name != "flow"}
    shown["mask"] = np.repeat(pictures["mask"][..., None], 3, axis=2)
    shown["flow"] = draw_flow(flow, max(reach, LEAST_FULL_SCALE))
    return Panel(key, variant, shown, reach)

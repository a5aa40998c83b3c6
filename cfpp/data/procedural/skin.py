"""Skin as a texture of the head: colour, pores, freckles, moles and wrinkles, fixed for a person."""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.draws import generator
from cfpp.data.procedural.curves import Curves
from cfpp.data.procedural.noise import octaves, smoothstep
from cfpp.data.procedural.person import BeardStyle, Person
from cfpp.data.procedural.surface import EAR_SPAN, Grid, Surface, ear_height, ear_root


@dataclass(frozen=True)
class Skin:
    """Maps over the texture grid.

    Attributes:
        albedo: [3, h, w] linear. slope: [2, h, w] relief (mm per mm) along azimuth and height.
        gloss: [h, w] strength of the shine.
    """

    grid: Grid
    albedo: np.ndarray
    slope: np.ndarray
    gloss: np.ndarray


def _spot(a: np.ndarray, y: np.ndarray, at: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    """A soft blob at +-a."""
    return np.asarray(
        np.exp(-0.5 * ((np.abs(a) - at[0]) / size[0]) ** 2 - 0.5 * ((y - at[1]) / size[1]) ** 2)
    )


def beard_area(person: Person, curves: Curves, a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the beard grows, 0..1."""
    if person.beard is BeardStyle.NONE:
        return np.zeros(np.broadcast(a, y).shape, np.float32)
    m, half = person.mouth_y, curves.mouth_half
    x = np.abs(a)
    lip = (
        smoothstep(half + 7, half + 2, x)
        * smoothstep(person.nose_y - 10, person.nose_y - 12.5, y)
        * smoothstep(m - 4, m + 2, y)
    )
    chin = smoothstep(23, 17, x) * smoothstep(m - 11.5, m - 15, y) * smoothstep(-150, -135, y)
    cheek_line = np.interp(x, [0, 20, 34, 50, 62, 74], [m - 12, m - 12, m + 6, m + 22, m + 46, m + 70])
    cheek = smoothstep(0, -7, y - cheek_line) * smoothstep(-150, -132, y)
    cheek = cheek * (1 - smoothstep(half + 2, half - 4, x) * smoothstep(m - 15, m - 11, y))
    around = smoothstep(half + 10, half + 6, x) * smoothstep(half - 1, half + 3, x)
    around = around * smoothstep(m + 12, m + 6, y) * smoothstep(m - 30, m - 20, y)
    if person.beard is BeardStyle.MOUSTACHE:
        return np.asarray(lip.astype(np.float32))
    if person.beard is BeardStyle.GOATEE:
        return np.asarray(np.maximum.reduce([lip, chin, around]).astype(np.float32))
    return np.asarray(np.maximum.reduce([lip, chin, cheek]).astype(np.float32))


def _lines(person: Person, curves: Curves, surface: Surface, grid: Grid) -> np.ndarray:
    """Depth of wrinkles, [h, w] 0..1."""
    rng = generator(person.seed, "wrinkles", person.identity)
    canvas = np.zeros((grid.height, grid.width), np.uint8)
    lines: list[tuple[np.ndarray, np.ndarray, float]] = []
    ticks = np.linspace(0, 1, 12)
    raised = max(curves.shot.brow_raise, 0) * 0.12
    for k in range(4):
        a = np.linspace(-rng.uniform(22, 40), rng.uniform(22, 40), 16)
        y = 31 + 8.0 * k + rng.uniform(-1.5, 1.5) + 1.5 * np.cos(a / 14 + rng.uniform(-1, 1))
        lines.append((a, y + 0.4 * rng.standard_normal(16), max(0.0, person.age - 0.35) * 1.3 + raised))
    squint = 0.35 * max(curves.shot.smile, 0)
    for side in (-1, 1):
        for k in range(4):
            r = np.linspace(0, 1, 6)
            a = side * (person.eye_x + person.eye_width + 3 + r * rng.uniform(7, 12))
            y = 0.5 + (2.2 - 2.3 * k) * (0.4 + r) + rng.uniform(-0.7, 0.7)
            lines.append((a, y, max(0.0, person.age - 0.4) * 1.2 + squint * (0.3 + person.age)))
        e = np.linspace(-0.9, 0.85, 10)
        for k in range(2):
            a = side * (person.eye_x + person.eye_width * e)
            y = curves.lid_lower(e) - 3.2 - 3.2 * k - rng.uniform(0, 1)
            lines.append((a, y, 0.2 + 0.55 * person.bags))
        a = side * (4.5 + 0.5 * np.linspace(-1, 1, 5) ** 2)
        lines.append((a, np.linspace(11, 22, 5), max(0.0, person.age - 0.45) + 0.5 * curves.shot.frown))
    lines = sorted((line for line in lines if line[2] > 0.05), key=lambda line: line[2])  # deep over shallow
    if not lines:
        return np.zeros((grid.height, grid.width), np.float32)
    y = np.stack([np.interp(ticks, np.linspace(0, 1, len(y)), y) for _, y, _ in lines]).astype(np.float32)
    a = np.stack([np.interp(ticks, np.linspace(0, 1, len(a)), a) for a, _, _ in lines])
    column, row = grid.index(surface.theta_of(a, y), y)
    paths = np.round(np.stack([column, row], -1) * 16).astype(np.int32)
    wide = max(1, round(grid.width / 700))
    for path, (_, _, depth) in zip(paths, lines, strict=True):
        cv2.polylines(canvas, [path], False, int(min(depth, 1) * 255), wide, cv2.LINE_AA, 4)
    sigma = max(0.6, grid.width / 900)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma).astype(np.float32) / np.float32(255))


def _dots(person: Person, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Freckles and moles, [h, w] 0..1 each."""
    rng = generator(person.seed, "freckles", person.identity)
    scale = grid.width / 360.0  # cells per mm, about
    freckles = np.zeros((grid.height, grid.width), np.uint8)
    count = int(420 * person.freckles)
    theta = rng.normal(0, 0.42, count)
    y = rng.normal(-14, 17, count) + 5 * rng.standard_normal(count)
    column, row = grid.index(theta, y)
    size, tone = rng.uniform(0.35, 1.1, count), rng.uniform(0.3, 1.0, count)
    for c, r, s, t in zip(column, row, size, tone, strict=True):
        cell = 2 * s * scale * 0.5
        centre = (round(float(c) * 16), round(float(r) * 16))
        cv2.circle(
            freckles, centre, round(max(cell, 0.5) * 16), int(255 * t * min(1, cell * 2)), -1, cv2.LINE_AA, 4
        )
    moles = np.zeros_like(freckles)
    theta, y = rng.uniform(-1.0, 1.0, person.moles), rng.uniform(-105, 45, person.moles)
    column, row = grid.index(theta, y)
    for c, r, s in zip(column, row, rng.uniform(0.7, 1.9, person.moles), strict=True):
        centre = (round(float(c) * 16), round(float(r) * 16))
        cv2.circle(moles, centre, round(max(s * scale, 0.7) * 16), 230, -1, cv2.LINE_AA, 4)
    blur = max(0.5, 0.35 * scale)
    soft = [cv2.GaussianBlur(m, (0, 0), blur).astype(np.float32) / np.float32(255) for m in (freckles, moles)]
    return soft[0], soft[1]


def build_skin(person: Person, curves: Curves, surface: Surface, grid: Grid) -> Skin:
    """Paint the skin over the texture grid."""
    shape = (grid.height, grid.width)
    small = Grid(160, 136)
    across = cv2.resize(surface.across, (small.width, small.height), interpolation=cv2.INTER_AREA)
    y = np.broadcast_to(small.y[:, None], across.shape)
    p = person
    red = 0.55 * _spot(across, y, (40, -28), (15, 12)) + 0.55 * _spot(across, y, (0, p.nose_y), (13, 10))
    red += 0.25 * _spot(across, y, (0, p.chin_y + 14), (14, 9)) + 0.35 * _spot(
        across, y, (p.eye_x, 2), (14, 9)
    )
    red += 0.6 * smoothstep(1.45, 1.65, np.abs(small.theta))[None, :]
    red += 0.35 * _spot(across, y, (p.nose_width, p.nose_y - 2), (4, 6))
    dark = 0.35 * _spot(across, y, (p.eye_x - 5, -6), (11, 5)) * (0.4 + 0.6 * p.bags)
    dark += 0.22 * _spot(across, y, (p.eye_x, 7), (13, 5)) + 0.10 * smoothstep(-95, -135, y)
    v = ear_height(p, y)
    u = (np.abs(small.theta)[None, :] - ear_root(v)) / EAR_SPAN
    hollow = np.exp(-(((u - 0.5) / 0.22) ** 2) - ((v + 0.1) / 0.5) ** 2)
    groove = np.exp(-(((u - 0.8) / 0.09) ** 2)) * smoothstep(-0.3, 0.1, v) * smoothstep(1.0, 0.8, np.abs(v))
    root = np.exp(-(((u - 0.06) / 0.1) ** 2)) * smoothstep(1.0, 0.8, np.abs(v))
    dark += 1.5 * hollow + 0.7 * groove + 0.9 * root
    beard = beard_area(p, curves, across, y)
    gloss = (
        0.35 + 0.5 * _spot(across, y, (0, 45), (30, 15)) + 0.8 * _spot(across, y, (0, p.nose_y + 4), (8, 14))
    )
    gloss += 0.4 * _spot(across, y, (42, -14), (14, 10)) + 0.3 * _spot(across, y, (0, p.chin_y + 12), (10, 8))
    gloss = gloss * (0.5 + 1.2 * p.oiliness) * (1 - 0.6 * beard)

    def grow(field: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(field.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC))

    words = ("skin", p.identity)
    blotch = octaves(p.seed, (*words, "blotch"), shape, range(3, 8), 0.75)
    fine = octaves(p.seed, (*words, "fine"), shape, range(7, 11), 0.8)
    pores = octaves(p.seed, (*words, "pores"), shape, range(8, 11), 0.9)
    freckles, moles = _dots(p, grid)
    wrinkles = _lines(p, curves, surface, grid)
    blood = p.redness * (grow(red) + np.float32(0.10) * blotch) + np.float32(0.05) * fine
    melanin = grow(dark) + np.float32(0.05 + 0.03 * p.age) * blotch + np.float32(0.055) * fine
    melanin = melanin + np.float32(0.9) * freckles + np.float32(2.0) * moles + np.float32(0.45) * wrinkles
    jaw = smoothstep(-9, -2, small.y[:, None] - curves.jaw_edge(small.theta)[None, :])
    shadow = 1.5 if p.beard is BeardStyle.FULL else 0.75
    stubble = (
        grow(beard * jaw * (np.abs(small.theta) < 1.35))
        * np.float32(shadow)
        * (np.float32(0.42) + np.float32(0.25) * np.clip(pores, -1.5, 1.5))
    )
    log = np.stack(
        [
            np.float32(0.06) * blood + np.float32(0.42) * melanin + np.float32(0.75) * stubble,
            np.float32(0.40) * blood + np.float32(0.66) * melanin + np.float32(0.72) * stubble,
            np.float32(0.34) * blood + np.float32(0.92) * melanin + np.float32(0.55) * stubble,
        ]
    )
    albedo = p.skin[:, None, None] * np.exp(-log)
    relief = np.float32(0.055) * pores - np.float32(0.55) * wrinkles + np.float32(0.35) * moles
    cell_x, cell_y = 360.0 / grid.width, grid.cell_y
    slope = np.stack(
        [
            cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=1 / (8 * cell_x)),
            -cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=1 / (8 * cell_y)),
        ]
    )
    return Skin(grid, albedo.astype(np.float32), slope, np.clip(grow(gloss), 0, 2))

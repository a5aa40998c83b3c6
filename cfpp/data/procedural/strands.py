"""Hairs drawn one by one: brows, lashes, beard and loose strands of hair.

They are always drawn on a canvas of the same fine resolution and then reduced, so that a small picture shows
the same hairs as a large one.
"""

import cv2
import numpy as np

from cfpp.data.draws import generator
from cfpp.data.procedural.camera import Camera
from cfpp.data.procedural.curves import Curves
from cfpp.data.procedural.hair import crown, end_of_hair, falls
from cfpp.data.procedural.person import BeardStyle, HairStyle, Person
from cfpp.data.procedural.skin import beard_area
from cfpp.data.procedural.surface import Surface, look_up

CANVAS = 768
_SHIFT = 4


class StrandCanvas:
    """Premultiplied colour (display gamma) and coverage of hairs."""

    def __init__(self) -> None:
        self._pixels = np.zeros((CANVAS, CANVAS, 4), np.uint8)

    def draw(self, paths: np.ndarray, colour: np.ndarray, opacity: float) -> None:
        """Draw paths [n, k, 2] in shares of the side with one linear colour [3]."""
        if len(paths) == 0:
            return
        fixed = np.round((paths * CANVAS - 0.5) * (1 << _SHIFT)).astype(np.int32)
        tone = np.sqrt(np.clip(np.asarray(colour, np.float64), 0, 1)) * opacity * 255
        ink = (float(tone[0]), float(tone[1]), float(tone[2]), opacity * 255)
        cv2.polylines(self._pixels, list(fixed), False, ink, 1, cv2.LINE_AA, _SHIFT)

    def reduced(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels [m] (indices) that are touched, linear colour [3, m], coverage [m] in 0..1."""
        pixels = self._pixels
        if side != CANVAS:
            pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        flat = pixels.reshape(-1, 4)
        where = np.flatnonzero(flat[:, 3])
        touched = flat[where].astype(np.float32)
        colour = np.clip(touched[:, :3] / touched[:, 3:], 0, 1) ** 2
        return where, np.ascontiguousarray(colour.T), touched[:, 3] * np.float32(1 / 255)


def _shades(rng: np.random.Generator, count: int, groups: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Group of each strand and the brightness of each group."""
    return rng.integers(0, groups, count), np.exp(np.linspace(-0.45, 0.35, groups))


def draw_brows(canvas: StrandCanvas, curves: Curves, surface: Surface, camera: Camera) -> None:
    p = curves.person
    base = np.minimum(p.hair * 0.8, 0.22) if p.age < 0.75 else p.hair * 0.8
    count = int(190 + 260 * p.brow_density)
    for side in (-1, 1):
        rng = generator(p.seed, "brow", p.identity, side)
        s = rng.beta(1.1, 1.15, count)
        across = np.clip(rng.normal(0, 0.5, count), -1.15, 1.15)
        a, y = curves.brow(s, side)
        half = curves.brow_half_thickness(s)
        y = y + across * half
        length = (3.6 + 3.4 * rng.random(count)) * np.clip(1.1 - 0.5 * s, 0.5, 1)
        # hairs rise near the nose and lie flat outside; the two edges lean to the middle
        lean = np.radians(78 - 82 * np.clip(s * 1.25, 0, 1) - 26 * across + 14 * rng.standard_normal(count))
        r = np.linspace(0, 1, 4)[None, :]
        bend = lean[:, None] - 0.5 * r
        pa = a[:, None] + side * length[:, None] * r * np.cos(bend)
        py = y[:, None] + length[:, None] * r * np.sin(bend)
        paths = camera.project(surface.on_face(pa, py, 0.4))
        group, tones = _shades(rng, count)
        for g, tone in enumerate(tones):
            canvas.draw(paths[group == g], base * tone, 0.38 + 0.3 * p.brow_density)


def draw_lashes(canvas: StrandCanvas, curves: Curves, surface: Surface, camera: Camera) -> None:
    p = curves.person
    colour = np.minimum(p.hair * 0.35, 0.03)
    for side in (-1, 1):
        rng = generator(p.seed, "lashes", p.identity, side)
        for upper in (True, False):
            count = int((90 if upper else 34) * (0.45 + 0.55 * p.lashes))
            e = np.sort(rng.uniform(-0.82 if upper else -0.5, 1.0, count))
            lid = curves.lid_upper(e) if upper else curves.lid_lower(e)
            long = (2.6 + 3.4 * p.lashes if upper else 1.2 + 1.2 * p.lashes) * rng.uniform(0.6, 1.0, count)
            long = long * (0.62 + 0.38 * np.clip(e + 0.4, 0, 1))
            r = np.linspace(0, 1, 5)[None, :]
            fan = (0.25 + 0.75 * e + 0.16 * rng.standard_normal(count))[:, None]
            a = side * (p.eye_x + p.eye_width * e[:, None] + 0.62 * long[:, None] * fan * r)
            rise = 0.62 * (r**1.5) - 0.16 * np.sin(np.pi * r) if upper else -0.6 * r
            y = lid[:, None] + long[:, None] * rise
            points = surface.on_face(np.repeat(a[:, :1], 5, 1), np.repeat(y[:, :1], 5, 1), 0.3)
            points[..., 0] += a - a[:, :1]
            points[..., 1] += y - y[:, :1]
            points[..., 2] += long[:, None] * r * 0.55
            canvas.draw(camera.project(points), colour, (0.55 if upper else 0.3) + 0.3 * p.lashes)


def draw_beard(canvas: StrandCanvas, curves: Curves, surface: Surface, camera: Camera) -> None:
    p = curves.person
    if p.beard is BeardStyle.NONE:
        return
    rng = generator(p.seed, "beard", p.identity)
    full = p.beard is not BeardStyle.STUBBLE
    count = 5200 if p.beard is BeardStyle.FULL else 3600
    a = rng.uniform(-66, 66, count)
    y = rng.uniform(-126, -25, count)
    a = np.where(rng.random(count) < 0.35, a * 0.5, a)
    kept = rng.random(count) < beard_area(p, curves, a, y)
    a, y = a[kept], y[kept]
    theta = surface.theta_of(a, y)[0]
    kept = (np.abs(theta) < 1.25) & (y > curves.jaw_edge(theta) - 5)
    a, y, theta = a[kept], y[kept], theta[kept]
    count = len(a)
    length = (
        rng.uniform(2.5, 7.5, count) * np.where(y > p.mouth_y + 1, 0.8, 1.0)
        if full
        else rng.uniform(0.5, 1.3, count)
    )
    # away from the middle on the lip, down and a little inwards on the cheeks; anywhere for stubble
    lip = np.clip((y - p.mouth_y) / 4, 0, 1) * (np.abs(a) < curves.mouth_half + 4)
    aside = np.sign(a) * (1.0 * lip - 0.25 * (1 - lip)) + (0.3 if full else 0.9) * rng.standard_normal(count)
    bend = 0.5 * rng.standard_normal(count)
    r = np.linspace(0, 1, 3)[None, :]
    angle = aside[:, None] + bend[:, None] * r
    points = surface.point(theta, y, 0.4)[0][:, None, :].repeat(3, 1)
    points[..., 0] += length[:, None] * r * np.sin(angle) * np.cos(theta)[:, None]
    points[..., 1] -= length[:, None] * r * np.cos(angle)
    points[..., 2] += (1.5 if full else 0.2) * r
    colour = p.hair * np.array([0.95, 0.82, 0.75], np.float32) if full else np.minimum(p.hair * 0.8, 0.12)
    group, tones = _shades(rng, count)
    paths = camera.project(points)
    for g, tone in enumerate(tones):
        canvas.draw(paths[group == g], colour * tone * (1.2 if full else 1), 0.6 if full else 0.42)


def hair_paths(
    person: Person, surface: Surface, camera: Camera, depth: np.ndarray, shot: int
) -> tuple[np.ndarray, np.ndarray]:
    """Single hairs that lie over the hair and those of them that can be seen.

    Args:
        person, surface, camera: whose hair.
        depth: [side, side] camera z of the picture.
        shot: hairs fall differently in every shot.

    Returns:
        paths [n, 10, 2] in shares of the side and lightness [n] about 1.
    """
    rng = generator(person.seed, "loose hair", person.identity, shot)
    count, steps = 700, 10
    low = -130.0 if falls(person) else -40.0
    theta = rng.uniform(-1.9, 1.9, count).astype(np.float32)
    y = rng.uniform(low, 116, count).astype(np.float32)
    lift = (1.2 * rng.exponential(1.0, count)).astype(np.float32)
    stray = (0.14 * rng.standard_normal((3, count))).astype(np.float32)
    phase, tone = rng.uniform(0, 6.3, count), rng.choice([0.6, 0.8, 1.25, 1.5], count)
    kept = look_up(surface.hair.inside, surface.grid, theta, y) > 1.5
    theta, y, lift, stray, phase, tone = (
        theta[kept],
        y[kept],
        lift[kept],
        stray[:, kept],
        phase[kept],
        tone[kept],
    )
    axis = crown(person)[:, None]
    curl = person.waves if person.style is not HairStyle.CURLY else 1.6
    point = surface.point(theta, y, 0.0, hair=True)[0].T
    path = [point]
    buried = np.zeros(len(theta), bool)
    for k in range(1, steps):
        normal = point / np.linalg.norm(point, axis=0)
        flow = normal * (normal * axis).sum(0) - axis
        flow = flow / np.maximum(np.linalg.norm(flow, axis=0), 0.2)
        sway = np.cross(flow, normal, axis=0) * (0.55 * curl * np.sin(phase + k * (0.5 + 0.9 * curl)))
        point = point + (5.5 - 2.5 * min(curl, 1)) * (flow + stray + sway)
        angle = np.arctan2(point[0], point[2]).astype(np.float32)
        radius = look_up(surface.radius, surface.grid, angle, point[1].astype(np.float32))
        buried |= radius < 8  # above the crown
        radius = np.maximum(radius, 1) + lift * k * 0.25
        point = np.stack([radius * np.sin(angle), point[1], radius * np.cos(angle)])
        path.append(point)
    points = np.stack(path).transpose(2, 0, 1)  # [n, steps, 3]
    flat = camera.project(points)
    at = np.clip(np.round(flat * depth.shape[0]).astype(int), 0, depth.shape[0] - 1)
    seen = (depth[at[..., 1], at[..., 0]] < camera.depth(points) + 4.0).all(1)
    end = points[:, -1].astype(np.float32)
    inside = look_up(surface.hair.inside, surface.grid, np.arctan2(end[:, 0], end[:, 2]), end[:, 1])
    good = seen & ~buried & (inside > -7) & (end[:, 1] > end_of_hair(person) - 6)
    return flat[good], tone[good]

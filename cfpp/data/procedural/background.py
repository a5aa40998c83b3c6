"""What is behind and below the head: backdrop and clothes."""

import cv2
import numpy as np

from cfpp.data.draws import generator
from cfpp.data.procedural.noise import octaves, smoothstep
from cfpp.data.procedural.person import to_linear
from cfpp.data.procedural.shot import Shot


def _colour(rng: np.random.Generator, value: tuple[float, float], saturation: float) -> np.ndarray:
    hue, sat, val = rng.uniform(0, 6), rng.uniform(0, saturation), rng.uniform(*value)
    ramp = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return to_linear(255 * val * (1 - sat + sat * ramp))


def backdrop(shot: Shot, side: int) -> np.ndarray:
    """Linear RGB [side, side, 3]."""
    words = ("backdrop", shot.identity, shot.shot)
    rng = generator(shot.seed, *words)
    grid = ((np.arange(side) + 0.5) / side).astype(np.float32)
    x, y = grid[None, :], grid[:, None]
    first, second = _colour(rng, (0.15, 0.9), 0.5), _colour(rng, (0.1, 0.8), 0.5)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = smoothstep(-0.7, 0.7, (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))[..., None]
    picture = first * (1 - ramp) + second * ramp
    kind = rng.random()
    if kind < 0.4:  # out-of-focus lights and shapes
        scale = 128
        layer = cv2.resize(picture, (scale, scale), interpolation=cv2.INTER_AREA)
        for _ in range(int(rng.integers(8, 26))):
            tone = _colour(rng, (0.2, 1.0), 0.75) * np.float32(rng.uniform(0.4, 1.3))
            disc = np.zeros((scale, scale), np.float32)
            centre = (int(rng.integers(0, scale * 16)), int(rng.integers(0, scale * 16)))
            cv2.circle(disc, centre, int(rng.uniform(5, 26) * 16), 1.0, -1, cv2.LINE_8, 4)
            disc = cv2.GaussianBlur(disc, (0, 0), float(rng.uniform(1.2, 5)))[..., None]
            strength = np.float32(rng.uniform(0.25, 0.8))
            layer = layer * (1 - strength * disc) + tone * strength * disc
        picture = cv2.resize(layer, (side, side), interpolation=cv2.INTER_CUBIC)
    elif kind < 0.65:  # upright or level bands: walls, shelves, trees
        bands = octaves(shot.seed, (*words, "bands"), (1, 96), range(3, 6), 0.8)[0]
        profile = np.interp(grid * 95, np.arange(96), bands).astype(np.float32)
        field = np.broadcast_to(profile[None, :] if rng.random() < 0.7 else profile[:, None], (side, side))
        picture = picture * np.exp(np.float32(0.35) * field)[..., None]
    else:  # plaster, foliage, clouds
        field = octaves(
            shot.seed, (*words, "cloud"), (side, side), range(2, 7), float(rng.uniform(0.35, 0.8))
        )
        picture = picture * np.exp(np.float32(rng.uniform(0.05, 0.45)) * field)[..., None]
    grain = octaves(shot.seed, (*words, "grain"), (side, side), range(7, 10), 0.7)
    picture = picture * np.exp(np.float32(rng.uniform(0.0, 0.05)) * grain)[..., None]
    return np.asarray(np.clip(picture, 0.0, 1.5).astype(np.float32))


def clothes(
    shot: Shot, plane: np.ndarray, side: int, woman: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shoulders and collar.

    Args:
        shot: the shot.
        plane: [2, side * side] camera plane (x right, y up, mm).
        side: of the picture.
        woman: wider necklines.

    Returns:
        pixels [n] (indices) that clothes may cover, their coverage [n] in 0..1, linear RGB [3, n].
    """
    words = ("clothes", shot.identity, shot.shot)
    rng = generator(shot.seed, *words)
    where = np.flatnonzero(plane[1] < -112)
    x = plane[0, where] + np.float32(rng.uniform(-5, 5) - 60 * shot.yaw * 0.2)
    y = plane[1, where]
    neck = float(rng.uniform(-140, -122)) - (8 if woman else 0)
    collar = float(rng.uniform(50, 66))
    reach = np.abs(x)
    top = neck - 15 + 23 * smoothstep(8, collar, reach) - 62 * smoothstep(collar, 215, reach)
    inside = top - y
    cover = smoothstep(-0.6, 0.6, inside)
    colour = _colour(rng, (0.08, 0.9), 0.7)
    folds = octaves(shot.seed, (*words, "folds"), (side, side), range(2, 7), 0.6).ravel()[where]
    weave = octaves(shot.seed, (*words, "weave"), (side, side), range(7, 10), 0.8).ravel()[where]
    shade = np.exp(np.float32(0.20) * folds + np.float32(0.08) * weave)
    seam = 1 - 0.45 * np.exp(-0.5 * ((inside - 6.0) / 0.9) ** 2)
    light = (0.55 + 0.45 * smoothstep(0, 14, inside)) * shade * seam
    cloth = colour[:, None]
    if rng.random() < 0.3:
        stripes = 0.5 + 0.5 * np.sign(np.sin((x * 0.4 + y) / float(rng.uniform(2.5, 6)) + 0.4 * folds))
        other = _colour(rng, (0.08, 0.9), 0.6)
        cloth = colour[:, None] * stripes + other[:, None] * (1 - stripes)
    level = shot.light_colour * np.float32(0.6) + shot.sky * np.float32(0.8)
    return where, cover.astype(np.float32), (cloth * light * level[:, None]).astype(np.float32)

"""Lips, teeth and the inside of the mouth."""

from dataclasses import dataclass

import numpy as np

from cfpp.data.draws import generator
from cfpp.data.procedural.curves import Curves
from cfpp.data.procedural.noise import smoothstep


@dataclass(frozen=True)
class Mouth:
    """Coverage [n] of the parts in 0..1, creases of the lips about 0, and the mouth's inside."""

    upper: np.ndarray
    lower: np.ndarray
    inside: np.ndarray
    line: np.ndarray
    streaks: np.ndarray
    interior: np.ndarray  # [3, n] linear reflectance


def paint_mouth(curves: Curves, a: np.ndarray, y: np.ndarray, pixel: float) -> Mouth:
    """Mouth at feature coordinates [n]; `pixel` is the size of a pixel in mm."""
    p, shot = curves.person, curves.shot
    t = (a / np.float32(curves.mouth_half)).astype(np.float32)
    within = smoothstep(1.015, 0.985, np.abs(t))
    top, bottom = curves.lip_outer_upper(t), curves.lip_outer_lower(t)
    gap_top, gap_bottom = curves.lip_inner_upper(t), curves.lip_inner_lower(t)
    edge = 0.5 * pixel + 0.35
    inside = smoothstep(-0.5 * pixel, 0.5 * pixel, np.minimum(gap_top - y, y - gap_bottom)) * within
    inside = inside * min(1.0, shot.mouth_open / 1.2)
    middle = 0.5 * (gap_top + gap_bottom)
    upper = smoothstep(-edge, edge, top - y) * (y >= middle) * within
    lower = smoothstep(-edge - 0.3, edge + 0.3, y - bottom) * (y < middle) * within
    line = np.exp(-0.5 * ((y - np.where(y > middle, gap_top, gap_bottom)) / 0.55) ** 2) * smoothstep(
        1.06, 0.97, np.abs(t)
    )
    rng = generator(p.seed, "lips", p.identity)
    phases, rates = rng.uniform(0, 6.3, 6), rng.uniform(0.9, 3.4, 6)
    fan = a * (1 + 0.012 * np.abs(y - middle))
    streaks = np.zeros_like(t)
    for phase, rate in zip(phases, rates, strict=True):
        streaks += np.sin(fan * rate + phase + 0.5 * np.sin(fan * 0.37 + phase)).astype(np.float32)
    # teeth hang from a fixed row; the lips uncover them
    row = p.mouth_y + 1.2
    width = rng.uniform(7.0, 8.2)
    teeth_a = a / width
    tooth = np.abs((teeth_a - np.floor(teeth_a)) - 0.5)
    length = 6.6 - 0.7 * (np.abs(np.floor(teeth_a) + 0.5) > 1) - 0.05 * np.abs(a)
    edge_y = row - length + 1.2 * np.maximum(tooth - 0.36, 0) / 0.14 + 2.2 * shot.smile * (np.abs(t) ** 2)
    teeth = smoothstep(-0.5, 0.5, y - edge_y)
    gap = 1 - 0.38 * smoothstep(0.44, 0.5, tooth)
    round_off = np.clip(1 - 0.75 * np.abs(t) ** 2, 0.1, 1)
    lip_shadow = 0.42 + 0.58 * smoothstep(0.0, 2.6, gap_top - y)
    ivory = np.array([[0.66], [0.60], [0.50]], np.float32) * (gap * round_off * lip_shadow)
    depth = np.clip((y - gap_bottom) / 4.0, 0, 1)
    tongue = smoothstep(0.0, -5.0, y - (p.mouth_y - 0.55 * shot.mouth_open)) * (1 - np.abs(t) ** 2 * 0.8)
    flesh = np.array([[0.16], [0.05], [0.045]], np.float32) * (tongue * (1 - 0.5 * depth))
    dark = np.array([[0.030], [0.010], [0.008]], np.float32) + flesh
    interior = dark * (1 - teeth) + ivory * teeth
    return Mouth(upper, lower, inside, line.astype(np.float32), streaks / 6, interior.astype(np.float32))

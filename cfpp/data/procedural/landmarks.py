"""Where the iBUG-68 points and the five alignment points lie on the head."""

import numpy as np

from cfpp.data.procedural.curves import Curves
from cfpp.data.procedural.surface import Surface


def _eye(curves: Curves, side: int) -> np.ndarray:
    """Outer corner, outer upper, inner upper, inner corner, inner lower, outer lower as (a, y)."""
    p = curves.person
    e = np.array([1, 0.38, -0.38, -1, -0.38, 0.38])
    a = side * (p.eye_x + p.eye_width * e)
    y = np.array(
        [curves.lid_base(e)[0], *curves.lid_upper(e)[1:3], curves.lid_base(e)[3], *curves.lid_lower(e)[4:]]
    )
    return np.stack([a, y], -1)


def _mouth(curves: Curves) -> np.ndarray:
    half = curves.mouth_half
    up, low = np.array([-0.6, -0.24, 0, 0.24, 0.6]), np.array([0.6, 0.28, 0, -0.28, -0.6])
    corner = curves.mouth_line(np.array([-1.0, 1.0]))
    outer = [(-half, corner[0]), *zip(up * half, curves.lip_outer_upper(up), strict=True), (half, corner[1])]
    outer += list(zip(low * half, curves.lip_outer_lower(low), strict=True))
    within, inner = np.array([-0.88, -0.4, 0, 0.4, 0.88]), np.array([0.4, 0, -0.4])
    above = list(zip(within * half, curves.lip_inner_upper(within), strict=True))
    above += list(zip(inner * half, curves.lip_inner_lower(inner), strict=True))
    return np.array(outer + above)


def points68(surface: Surface, curves: Curves) -> np.ndarray:
    """[68, 3] points on the skin, head frame, mm."""
    p = curves.person
    degrees = np.array([75, 75, 75, 72, 63, 51, 36, 18])
    theta = np.radians(np.concatenate([-degrees, [0], degrees[::-1]])).astype(np.float32)
    half = np.concatenate([[2, -20, -38], curves.jaw_edge(np.radians(degrees[3:])) + 1.5])
    heights = np.concatenate([half, [curves.chin_y + 1.5], half[::-1]]).astype(np.float32)
    jaw = surface.point(theta, heights)[0]
    s = np.array([0.97, 0.74, 0.5, 0.26, 0.02])
    left, right = np.stack(curves.brow(s, -1), -1), np.stack(curves.brow(s[::-1], 1), -1)
    bridge = np.stack([np.zeros(4), np.array([3.0, 0.33 * p.nose_y, 0.68 * p.nose_y, p.nose_y])], -1)
    below = p.nose_y - np.array([6.5, 8, 9, 8, 6.5])
    base = np.stack([np.array([-0.85, -0.45, 0, 0.45, 0.85]) * p.nose_width, below], -1)
    eye_right = _eye(curves, 1)[[3, 2, 1, 0, 5, 4]]
    flat = np.concatenate([left, right, bridge, base, _eye(curves, -1), eye_right, _mouth(curves)])
    return np.concatenate([jaw, surface.on_face(flat[:, 0], flat[:, 1])[0]])


def five(points: np.ndarray) -> np.ndarray:
    """Eye centres, nose tip and mouth corners from 68 points [68, D]."""
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])

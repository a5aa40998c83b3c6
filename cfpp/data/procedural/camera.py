"""Perspective camera aligned like FFHQ: the face's own five landmarks best fit the template."""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.procedural.face import TEMPLATE_512
from cfpp.data.procedural.shot import Shot
from cfpp.data.procedural.surface import Surface, look_up


def rotation(shot: Shot) -> np.ndarray:
    """Head frame to camera frame, [3, 3]."""
    cy, sy = np.cos(shot.yaw), np.sin(shot.yaw)
    cp, sp = np.cos(shot.pitch), np.sin(shot.pitch)
    cr, sr = np.cos(shot.roll), np.sin(shot.roll)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(roll @ pitch @ yaw)


def _similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares M (scaled rotation) and t with source @ M.T + t = target (Umeyama, 2-D, no mirror)."""
    a, b = source - source.mean(0), target - target.mean(0)
    norm = (a * a).sum()
    c = (a * b).sum() / norm
    s = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / norm
    matrix = np.array([[c, -s], [s, c]])
    return matrix, target.mean(0) - source.mean(0) @ matrix.T


@dataclass(frozen=True)
class Camera:
    """Head frame (mm) to the picture. Picture coordinates here are shares of its side, 0..1."""

    turn: np.ndarray
    distance: float
    matrix: np.ndarray
    shift: np.ndarray

    def plane(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] to the camera's image plane [..., 2], mm, y down."""
        q = points.astype(np.float64) @ self.turn.T
        scale = 1.0 / (1.0 - q[..., 2] / self.distance)
        return np.stack([q[..., 0] * scale, -q[..., 1] * scale], -1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] to (x, y) in shares of the side."""
        return np.asarray(self.plane(points) @ self.matrix.T + self.shift)

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Camera z (mm, towards the camera) of points [..., 3]."""
        return np.asarray(points.astype(np.float64) @ self.turn[2])

    def pixel(self, side: int) -> float:
        """Size of a pixel of a picture of this side, mm."""
        return float(1.0 / (np.sqrt(abs(np.linalg.det(self.matrix))) * side))

    def rays(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rays p = origin + z * slope in the head frame, z the camera's depth; and plane coordinates.

        Returns:
            origin, slope [3, side * side] and plane [2, side * side] (x right, y up, mm), float32.
        """
        inverse = np.linalg.inv(self.matrix)
        centres = (np.arange(side) + 0.5) / side - self.shift[:, None]
        x = inverse[0, 0] * centres[0][None, :] + inverse[0, 1] * centres[1][:, None]
        y = -(inverse[1, 0] * centres[0][None, :] + inverse[1, 1] * centres[1][:, None])
        plane = np.stack([x.ravel(), y.ravel()]).astype(np.float32)
        back = self.turn.T.astype(np.float32)
        origin = back[:, :1] * plane[0] + back[:, 1:2] * plane[1]
        slope = back[:, 2:] - origin * np.float32(1 / self.distance)
        return origin, slope, plane


def align(shot: Shot, points5: np.ndarray) -> Camera:
    """Camera for which the five head-frame points [5, 3] fall best on the template."""
    loose = Camera(rotation(shot), shot.distance, np.eye(2), np.zeros(2))
    matrix, shift = _similarity(loose.plane(points5), TEMPLATE_512 / 512.0)
    return Camera(loose.turn, loose.distance, matrix, shift)


_NEAR, _FAR, _MISS = 135.0, -115.0, -1000.0


def _gap(surface: Surface, origin: np.ndarray, slope: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance (mm) from the axis beyond the surface's radius, at depth z [n] along rays [3, n]."""
    x, y, depth = origin[0] + z * slope[0], origin[1] + z * slope[1], origin[2] + z * slope[2]
    radius = look_up(surface.radius, surface.grid, np.arctan2(x, depth), y)
    return np.asarray(np.sqrt(x * x + depth * depth) - radius)


def _march(
    surface: Surface, origin: np.ndarray, slope: np.ndarray, start: np.ndarray, steps: int, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Walk until inside, then close in on the crossing. Returns z [n] and whether the ray hits."""
    outside, inside = start, np.full_like(start, _FAR)
    value_out, value_in = _gap(surface, origin, slope, start), np.full_like(start, -1.0)
    found = np.zeros(start.shape, bool)
    z, gap = start, value_out
    for _ in range(steps):
        # beside a silhouette the gap stays small for long: step on by at least a little
        step = np.maximum(np.float32(0.8) * gap, np.float32(least))
        z = np.where(found, z, np.maximum(z - step, np.float32(_FAR)))
        gap = _gap(surface, origin, slope, z)
        crossed = ~found & (gap < 0)
        inside, value_in = np.where(crossed, z, inside), np.where(crossed, gap, value_in)
        found |= crossed
        outside, value_out = np.where(found, outside, z), np.where(found, value_out, gap)
        if found.all():
            break
    for k in range(5):
        share = value_out / np.maximum(value_out - value_in, np.float32(1e-4))
        share = np.clip(share, 0.1, 0.9) if k < 3 else np.clip(share, 0.0, 1.0)
        z = outside + share * (inside - outside)
        gap = _gap(surface, origin, slope, z)
        within = gap < 0
        inside, value_in = np.where(within, z, inside), np.where(within, gap, value_in)
        outside, value_out = np.where(within, outside, z), np.where(within, value_out, gap)
    return np.where(found, z, np.float32(_FAR)).astype(np.float32), found


def cast(
    surface: Surface, camera: Camera, origin: np.ndarray, slope: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """First hit of every ray with the head.

    A coarse picture is marched from far off. Where it is smooth its depth is only polished at full
    resolution; elsewhere, along silhouettes above all, the march is done again.

    Returns:
        hit [side * side] bool and depth [side * side], the camera's z of the hit.
    """
    coarse = 112
    rays = camera.rays(coarse)
    start = np.full(coarse * coarse, _NEAR, np.float32)
    far, found = _march(surface, rays[0], rays[1], start, 22, 4.5)
    far, seen = far.reshape(coarse, coarse), found.reshape(coarse, coarse).astype(np.float32)
    box = np.ones((3, 3), np.uint8)
    nearest = cv2.dilate(far, box)
    rough = cv2.dilate(((nearest - cv2.erode(far, box)) > 16).astype(np.uint8), box)
    depth = cv2.resize(far, (side, side), interpolation=cv2.INTER_LINEAR).ravel()
    hit = cv2.resize(seen, (side, side), interpolation=cv2.INTER_LINEAR).ravel() > 0.5
    again = cv2.resize(rough, (side, side), interpolation=cv2.INTER_NEAREST).ravel() > 0
    easy = np.flatnonzero(hit & ~again)
    z, o, s = depth[easy], origin[:, easy], slope[:, easy]
    for _ in range(2):
        z = z - np.float32(0.9) * _gap(surface, o, s, z)
    depth[easy] = z
    again[easy] = np.abs(_gap(surface, o, s, z)) > 0.35
    hard = np.flatnonzero(again)
    if len(hard):
        begin = cv2.resize(nearest, (side, side), interpolation=cv2.INTER_LINEAR).ravel() + np.float32(2.0)
        depth[hard], hit[hard] = _march(surface, origin[:, hard], slope[:, hard], begin[hard], 24, 1.8)
    return hit, np.where(hit, depth, np.float32(_MISS))

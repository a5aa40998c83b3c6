"""Eyeballs seen between the lids: sclera, iris fibres, pupil, lid shadow, catchlight."""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.draws import generator
from cfpp.data.procedural.curves import Curves
from cfpp.data.procedural.light import RGB, Lighting, dot, unit
from cfpp.data.procedural.noise import smoothstep
from cfpp.data.procedural.person import Person
from cfpp.data.procedural.sampling import sample
from cfpp.data.procedural.surface import Surface

RADIUS = 12.2  # of the eyeball, mm


@dataclass(frozen=True)
class Lids:
    """Paint of one eye, each [n] in 0..1: the opening, and what the lids add to the skin."""

    opening: np.ndarray
    rim: np.ndarray
    crease: np.ndarray
    lashes: np.ndarray


def lids(curves: Curves, side: int, a: np.ndarray, y: np.ndarray, pixel: float) -> Lids:
    """Coverage of an eye's parts at feature coordinates [n]; `pixel` is the size of a pixel in mm."""
    p = curves.person
    e = curves.eye_e(a, side)
    upper, lower = curves.lid_upper(e), curves.lid_lower(e)
    inside = np.minimum(upper - y, y - lower)
    inside = np.where(np.abs(e) <= 1, inside, -1.0 - 14 * (np.abs(e) - 1))
    opening = smoothstep(-0.6 * pixel, 0.6 * pixel, inside)
    rim = np.exp(-0.5 * ((inside + 0.6) / 0.75) ** 2) * (np.abs(e) < 1.03)
    fold_e = np.clip(e, -1, 1)
    fold = curves.lid_upper(fold_e) + p.crease * (0.55 + 0.45 * (1 - fold_e**2)) * (2 - curves.shot.openness)
    crease = np.exp(-0.5 * ((y - fold) / 0.8) ** 2) * smoothstep(1.12, 0.8, np.abs(e))
    line = np.where(y > curves.lid_base(e), y - upper, 0.55 * (lower - y) + 0.5)
    lash = np.exp(-0.5 * ((line - 0.35) / 0.65) ** 2) * smoothstep(1.08, 0.95, np.abs(e))
    return Lids(opening, rim, crease, lash * (0.45 + 0.55 * (e > -0.9)))


def _iris_texture(person: Person) -> np.ndarray:
    """Polar iris fibres, [radius 32, angle 256] about 0."""
    rng = generator(person.seed, "iris", person.identity)
    fibres = np.zeros((32, 256), np.float32)
    for columns, rows, gain in ((24, 4, 0.5), (64, 4, 0.8), (128, 6, 0.7)):
        cells = rng.standard_normal((rows, columns), dtype=np.float32)
        cells[:, -1] = cells[:, 0]
        fibres += np.float32(gain) * cv2.resize(cells, (256, 32), interpolation=cv2.INTER_LINEAR)
    return fibres


def _iris(person: Person, pupil_size: float, u: np.ndarray, v: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Colour [3, n] of the iris at (u, v) mm from its centre, rho in iris radii."""
    column = (np.arctan2(v, u) / np.float32(2 * np.pi) + np.float32(0.5)) * 255
    fibres = sample(_iris_texture(person), column, np.clip(rho, 0, 1) * 31)
    inner = smoothstep(0.75, 0.38, rho)
    colour = person.iris[RGB] * (1 - inner) + person.iris_inner[RGB] * inner
    below = np.clip(-v / np.float32(person.iris_radius), -1, 1)  # light entering above brightens the far side
    ring = 1 - np.float32(0.78) * smoothstep(0.74, 1.0, rho)
    colour = colour * (
        np.exp(np.float32(0.38) * fibres) * ring * (1 + np.float32(0.45) * below) * np.float32(1.5)
    )
    pupil = smoothstep(pupil_size + 0.06, pupil_size - 0.06, rho)
    return np.asarray(colour * (1 - pupil) + np.float32(0.003) * pupil)


def shade_eye(
    surface: Surface,
    curves: Curves,
    side: int,
    rays: tuple[np.ndarray, np.ndarray],
    at: tuple[np.ndarray, np.ndarray],
    turn: np.ndarray,
    visible: np.ndarray,
    lighting: Lighting,
) -> np.ndarray:
    """Colour of one eyeball.

    Args:
        surface, curves: the face.
        side: -1 for the left of the picture, +1 for the right.
        rays: origin and slope [3, n] in the head frame.
        at: feature coordinates a and y [n] of the pixels.
        turn: [3, 3] head frame to camera frame.
        visible: [n] share of the key light.
        lighting: the lights.

    Returns:
        linear RGB [3, n].
    """
    p, shot = curves.person, curves.shot
    (origin, slope), (a, y) = rays, at
    middle = 0.5 * (p.eye_up - p.eye_down)
    front = surface.on_face(np.array([side * p.eye_x]), np.array([middle]))[0, 0]
    outward = np.array([side * 0.10, 0.0, 1.0])
    centre = (front - outward / np.linalg.norm(outward) * (RADIUS - 0.1)).astype(np.float32)
    q = origin - centre[RGB]
    square, along, rest = dot(slope, slope), dot(q, slope), dot(q, q) - np.float32(RADIUS**2)
    z = (np.sqrt(np.maximum(along * along - square * rest, 0)) - along) / square
    normal = unit(q + z * slope)

    # people look at the camera more than their heads do
    ahead = np.array([np.sin(shot.gaze[0]), np.sin(shot.gaze[1]), 1.0]) + 0.9 * turn[2]
    ahead = (ahead / np.linalg.norm(ahead)).astype(np.float32)
    right = np.cross(np.array([0, 1, 0], np.float32), ahead)
    right /= np.linalg.norm(right)
    u, v = dot(right, normal) * np.float32(RADIUS), dot(np.cross(ahead, right), normal) * np.float32(RADIUS)
    rho = np.where(dot(ahead, normal) > 0, np.sqrt(u * u + v * v) / np.float32(p.iris_radius), np.float32(9))

    e = curves.eye_e(a, side)
    corner = smoothstep(0.45, 1.0, np.abs(e))
    white = np.array([0.68, 0.63, 0.60], np.float32)[RGB] * (
        1 - np.array([0.25, 0.5, 0.5], np.float32)[RGB] * corner
    )
    caruncle = smoothstep(-0.80, -0.93, e)
    white = white * (1 - caruncle) + np.array([0.52, 0.22, 0.18], np.float32)[RGB] * caruncle
    limbus = smoothstep(1.07, 0.95, rho)
    colour = white * (1 - limbus) + _iris(p, shot.pupil, u, v, rho) * limbus

    lid_gap = curves.lid_upper(e) - y
    shadow = np.float32(0.30) + np.float32(0.70) * smoothstep(0.0, 3.8, lid_gap)
    shadow = shadow * (np.float32(0.65) + np.float32(0.35) * smoothstep(0, 1.2, y - curves.lid_lower(e)))
    lit = np.clip(dot(lighting.key, normal) * np.float32(0.7) + np.float32(0.3), 0, 1)
    lit = lit * (np.float32(0.35) + np.float32(0.65) * visible)
    colour = colour * (shot.light_colour[RGB] * lit + lighting.ambient(normal)) * shadow

    # the cornea bulges, so its normal turns faster than the ball's; it mirrors a window-like key light
    bulge = smoothstep(1.15, 0.8, rho)
    cornea = unit(normal + bulge * np.float32(0.6) * (normal - ahead[RGB]))
    view = unit(slope)
    mirror = 2 * dot(cornea, view) * cornea - view
    toward = lighting.key + (np.array([0, 0.15, 0.55], np.float32) @ turn).astype(np.float32)
    toward = toward / np.linalg.norm(toward)
    spot = smoothstep(0.955, 0.972, dot(toward, mirror))
    glare = spot * (np.float32(0.25) + np.float32(0.75) * visible) * smoothstep(0.1, 0.9, lid_gap)
    sky = np.float32(0.035) * smoothstep(0.0, 0.9, dot(lighting.up, mirror)) * bulge
    return np.asarray(colour + shot.light_colour[RGB] * (glare * np.float32(1.1)) + shot.sky[RGB] * sky)

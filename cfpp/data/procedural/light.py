"""Light on the head: soft cast shadows, ambient occlusion and the reflection of skin and hair.

Vectors are [3, n] in the head frame, colours [3, n] linear.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.procedural.noise import smoothstep
from cfpp.data.procedural.shot import Shot
from cfpp.data.procedural.surface import Grid, Surface, look_up

RGB = (slice(None), None)  # makes a colour [3] a column that broadcasts over pixels


def shadow_map(surface: Surface, light: np.ndarray) -> np.ndarray:
    """Share of the key light that reaches each cell of the surface's grid, [h, w] float32 in 0..1.

    Args:
        surface: the head.
        light: unit vector towards the light, head frame.
    """
    small = Grid(108, 132)
    radius = cv2.resize(surface.radius, (small.width, small.height), interpolation=cv2.INTER_AREA)
    normal = [
        cv2.resize(n, (small.width, small.height), interpolation=cv2.INTER_AREA) for n in surface.normal
    ]
    theta, y = small.theta[None, :], small.y[:, None]
    x0, y0, z0 = radius * np.sin(theta) + normal[0], y + normal[1], radius * np.cos(theta) + normal[2]
    blocked = np.zeros(radius.shape, np.float32)
    for step in (3.0, 5.5, 9.0, 14.0, 20.0, 29.0, 42.0, 60.0):
        x, z, height = (
            x0 + np.float32(step) * light[0],
            z0 + np.float32(step) * light[2],
            y0 + np.float32(step) * light[1],
        )
        over = look_up(radius, small, np.arctan2(x, z), height) - np.sqrt(x * x + z * z)
        blocked = np.maximum(blocked, smoothstep(-0.10 * step, 0.16 * step + 0.5, over))
    blocked = cv2.GaussianBlur(blocked, (0, 0), 1.0)
    size = (surface.grid.width, surface.grid.height)
    return np.asarray(
        (1 - np.float32(0.93) * cv2.resize(blocked, size, interpolation=cv2.INTER_LINEAR)).astype(np.float32)
    )


def occlusion_map(surface: Surface) -> np.ndarray:
    """Ambient occlusion from concavity at three scales, [h, w] float32 in 0..1."""
    grid = surface.grid
    size = (grid.width // 2, grid.height // 2)
    cell = surface.grid.cell_y * 2
    small = cv2.resize(surface.radius, size, interpolation=cv2.INTER_AREA)
    depth = np.zeros_like(small)
    for sigma, strength in ((2.2, 0.34), (6.0, 0.14), (14.0, 0.05)):
        blurred = cv2.GaussianBlur(small, (0, 0), sigma / cell)
        depth += np.float32(strength) * np.maximum(blurred - small, 0)
    shade = np.float32(0.1) + np.float32(0.9) * cv2.exp(-depth)
    return np.asarray(cv2.resize(shade, (grid.width, grid.height), interpolation=cv2.INTER_LINEAR))


@dataclass(frozen=True)
class Lighting:
    """The lights of a shot turned into the head frame."""

    shot: Shot
    key: np.ndarray
    rim: np.ndarray
    up: np.ndarray

    @classmethod
    def of(cls, shot: Shot, turn: np.ndarray) -> "Lighting":
        f = np.float32
        return cls(shot, (shot.light @ turn).astype(f), (shot.rim @ turn).astype(f), turn[1].astype(f))

    def ambient(self, normal: np.ndarray) -> np.ndarray:
        """Light of sky and ground, [3, n]."""
        share = np.float32(0.5) + np.float32(0.5) * dot(self.up, normal)
        return np.asarray(self.shot.ground[RGB] + (self.shot.sky - self.shot.ground)[RGB] * share)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of vectors [3] or [3, n] over their first axis."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def unit(v: np.ndarray) -> np.ndarray:
    """Vectors [3, n] at length 1."""
    return np.asarray(v / np.sqrt(np.maximum(dot(v, v), np.float32(1e-8))))


def shade_skin(
    albedo: np.ndarray,
    normal: np.ndarray,
    smooth: np.ndarray,
    view: np.ndarray,
    visible: np.ndarray,
    occlusion: np.ndarray,
    gloss: np.ndarray,
    lighting: Lighting,
) -> np.ndarray:
    """Reflected light of skin.

    Args:
        albedo: [3, n] linear.
        normal: [3, n] with relief; smooth: without (light spreads under the skin).
        view: [3, n] unit vectors to the camera.
        visible: [n] share of the key light that arrives; occlusion: [n] of the ambient light.
        gloss: [n].
        lighting: the lights.

    Returns:
        linear RGB [3, n].
    """
    shot, key = lighting.shot, lighting.key
    sharp = dot(key, normal)
    mixed = np.float32(0.55) * dot(key, smooth) + np.float32(0.45) * sharp
    root, open_root = np.sqrt(visible), np.sqrt(occlusion)
    light = lighting.ambient(normal)
    # blood lets red light spread further: it reddens the edge of a shadow
    for channel, wrap in enumerate((0.30, 0.14, 0.09)):
        diffuse = np.clip((mixed + np.float32(wrap)) * np.float32(1 / (1 + wrap)), 0, 1)
        arrives, open_ = (
            (root * np.sqrt(root), occlusion + np.float32(0.3) * (open_root - occlusion))
            if (channel == 0)
            else (visible, occlusion)
        )
        light[channel] = light[channel] * open_ + shot.light_colour[channel] * diffuse * arrives
    if shot.rim_colour.any():
        light += shot.rim_colour[RGB] * np.clip(dot(lighting.rim, normal), 0, 1)
    half = unit(view + key[RGB])
    facing2 = np.clip(dot(normal, half), 0, 1) ** 2
    facing4 = facing2 * facing2
    facing12 = facing4 * facing4 * facing4
    shine = np.float32(0.12) * facing12 + np.float32(0.12) * facing12 * facing12 * facing12 * facing12
    shine *= gloss * visible * (sharp > 0)
    edge = 1 - np.clip(dot(smooth, view), 0, 1)
    edge = np.float32(0.10) * edge * edge * edge * edge * occlusion
    return np.asarray(
        albedo * light + shine * shot.light_colour[RGB] + edge * (shot.sky * 0.5 + shot.rim_colour)[RGB]
    )


def shade_hair(
    albedo: np.ndarray,
    tangent: np.ndarray,
    normal: np.ndarray,
    view: np.ndarray,
    visible: np.ndarray,
    occlusion: np.ndarray,
    shift: np.ndarray,
    lighting: Lighting,
) -> np.ndarray:
    """Reflected light of hair: strands scatter across their direction (Kajiya and Kay, 1989).

    Args:
        albedo: [3, n]. tangent: [3, n] along the strands. shift: [n] moves the highlight.
        normal, view, visible, occlusion, lighting: as in `shade_skin`.

    Returns:
        linear RGB [3, n].
    """
    shot, key = lighting.shot, lighting.key
    across = np.sqrt(np.clip(1 - dot(key, tangent) ** 2, 0, 1))
    facing = np.clip(np.float32(0.3) + np.float32(0.7) * dot(key, normal), 0, 1)
    light = lighting.ambient(normal) * occlusion + shot.light_colour[RGB] * (across * facing * visible)
    if shot.rim_colour.any():
        light += shot.rim_colour[RGB] * (
            np.clip(dot(lighting.rim, normal) + np.float32(0.2), 0, 1) * np.float32(1.3)
        )
    half = unit(view + key[RGB])
    bent = unit(tangent + normal * (np.float32(0.10) + np.float32(0.12) * shift))
    sine2 = np.clip(1 - dot(bent, half) ** 2, 0, 1)
    sine16 = sine2**8
    gate = visible * facing * occlusion
    white = np.float32(0.06) * gate * sine16**5
    tinted = np.float32(0.6) * gate * sine16 * np.sqrt(sine16)
    return np.asarray(
        albedo * (light * np.float32(1.15) + tinted * shot.light_colour[RGB]) + white * shot.light_colour[RGB]
    )

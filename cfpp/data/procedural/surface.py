"""The head as a surface: radius about the vertical axis as a function of azimuth and height.

Head frame: x to the right of the picture, y up, z towards the camera, millimetres, origin on the axis at the
height of the eyes. Within some 25 degrees of frontal a head, hair included, is single-valued in this form.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.procedural.curves import Curves
from cfpp.data.procedural.hair import HairShape, falls, hair_shape
from cfpp.data.procedural.noise import smoothstep
from cfpp.data.procedural.person import Person
from cfpp.data.procedural.sampling import sample

THETA_MAX = 2.3  # radians
Y_TOP = 155.0
Y_BOTTOM = -205.0
CROWN = 121.0  # top of the bare skull, mm


@dataclass(frozen=True)
class Grid:
    """Sampling of the (azimuth, height) domain; row 0 is the top."""

    width: int
    height: int

    @property
    def cell_y(self) -> float:
        """Height of a cell, mm."""
        return (Y_TOP - Y_BOTTOM) / self.height

    @property
    def theta(self) -> np.ndarray:
        return ((np.arange(self.width) + 0.5) / self.width * 2 - 1).astype(np.float32) * np.float32(THETA_MAX)

    @property
    def y(self) -> np.ndarray:
        return (Y_TOP - (np.arange(self.height) + 0.5) / self.height * (Y_TOP - Y_BOTTOM)).astype(np.float32)

    def index(self, theta: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Column and row (fractional) of a point."""
        column = (theta + np.float32(THETA_MAX)) * np.float32(self.width / (2 * THETA_MAX)) - np.float32(0.5)
        row = (np.float32(Y_TOP) - y) * np.float32(self.height / (Y_TOP - Y_BOTTOM)) - np.float32(0.5)
        return column.astype(np.float32), row.astype(np.float32)


def look_up(field: np.ndarray, grid: Grid, theta: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear sample of a field [h, w] of the grid at points of any shape."""
    column, row = grid.index(theta, y)
    return sample(field, column, row)


@dataclass(frozen=True)
class Surface:
    """Maps over the grid.

    Attributes:
        radius: [h, w] with hair; skin_radius: [h, w] without.
        across: [h, w] the `a` coordinate in which features are drawn.
        normal: [3, h, w] head frame.
        neck: [h, w] 1 on the neck, 0 on the head.
        hair: the hair's own maps.
    """

    grid: Grid
    radius: np.ndarray
    skin_radius: np.ndarray
    across: np.ndarray
    normal: np.ndarray
    neck: np.ndarray
    hair: HairShape

    def theta_of(self, a: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Azimuth at which the feature coordinate is `a`, at height y. Any shape."""
        a = np.atleast_2d(np.asarray(a, np.float32))
        y = np.broadcast_to(np.atleast_2d(np.asarray(y, np.float32)), a.shape)
        theta = np.clip(a / 90, -1.5, 1.5).astype(np.float32)
        for _ in range(6):
            width = look_up(self.across, self.grid, theta, y) / np.sin(np.where(theta == 0, 1e-3, theta))
            theta = np.arcsin(np.clip(a / np.where(np.abs(width) < 1, 80, np.abs(width)), -0.999, 0.999))
        return theta

    def point(self, theta: np.ndarray, y: np.ndarray, lift: float = 0.0, hair: bool = False) -> np.ndarray:
        """Points [..., 3] of the skin (or of the hair), `lift` mm outside it."""
        theta = np.atleast_2d(np.asarray(theta, np.float32))
        y = np.broadcast_to(np.atleast_2d(np.asarray(y, np.float32)), theta.shape).astype(np.float32)
        r = look_up(self.radius if hair else self.skin_radius, self.grid, theta, y) + np.float32(lift)
        return np.stack([r * np.sin(theta), y, r * np.cos(theta)], -1)

    def on_face(self, a: np.ndarray, y: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Points [..., 3] of the skin at feature coordinates."""
        return self.point(self.theta_of(a, y), y, lift)


def _profile(grid: Grid, heights: list[float], values: list[float], smooth: float) -> np.ndarray:
    curve = np.interp(grid.y, heights[::-1], values[::-1]).astype(np.float32)
    sigma = smooth * grid.height / (Y_TOP - Y_BOTTOM)
    return np.asarray(
        cv2.GaussianBlur(curve[:, None], (1, 2 * int(3 * sigma) + 1), sigmaX=1, sigmaY=sigma)[:, 0]
    )


class _Relief:
    """Adds Gaussian bumps to a map, touching only where each is felt."""

    def __init__(self, field: np.ndarray, across: np.ndarray, grid: Grid) -> None:
        self.field, self.across, self.grid = field, across, grid
        self.columns = np.arange(grid.width)

    def add(self, height: float, a: float, y: float, wide: float, tall: float, power: float = 2.0) -> None:
        rows = np.nonzero(np.abs(self.grid.y - y) < 3.1 * tall)[0]
        if height == 0.0 or not len(rows):
            return
        top, bottom = rows[0], rows[-1] + 1
        middle = self.across[(top + bottom) // 2]
        near = np.abs(middle - a) < 3.4 * wide + 4
        near &= np.abs(self.grid.theta) < 1.55
        columns = self.columns[near]
        if not len(columns):
            return
        window = (slice(top, bottom), slice(columns[0], columns[-1] + 1))
        x = np.abs((self.across[window] - np.float32(a)) / np.float32(wide))
        v = np.abs((self.grid.y[top:bottom, None] - np.float32(y)) / np.float32(tall))
        exponent = x * x + v * v if power == 2.0 else x**power + v**power
        self.field[window] += np.float32(height) * np.exp(np.float32(-0.5) * exponent)

    def pair(self, height: float, a: float, y: float, wide: float, tall: float) -> None:
        for side in (-1, 1):
            self.add(height, side * a, y, wide, tall)


def _base(person: Person, curves: Curves, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Skull and jaw without features, and the feature coordinate over it."""
    p, drop = person, curves.jaw_drop
    chin, mouth = curves.chin_y, p.mouth_y
    t, c, j = p.temple_width, p.cheek_width, p.jaw_width
    heights = [130, 52, 20, 0, -22, -46, -66, -84, chin + 12, chin, chin - 14, chin - 40]
    widths = [t - 1, t + 0.5, t + 1, t, c, c - 5, j + 1, j - 8, 36, 27 + 0.3 * (p.chin_width - 21), 20, 12]
    f = p.forehead
    front_y = [
        130,
        50,
        22,
        2,
        -22,
        -46,
        mouth,
        mouth - 16 - 0.5 * drop,
        chin + 11,
        chin + 2,
        chin - 8,
        chin - 30,
    ]
    depths = [92, 92 + f, 92, 88, 87, 88, 89.5, 86, 86 + p.chin_forward, 80 + p.chin_forward, 62, 40]
    share = np.clip((grid.y - 42) / (CROWN - 42), 0, 1)
    dome = (1 - share**2.15).astype(np.float32) ** np.float32(0.5)
    width = _profile(grid, heights, widths, 4.0) * dome + np.float32(0.5)
    depth = _profile(grid, front_y, depths, 3.0) * dome + np.float32(0.5)
    theta = grid.theta[None, :]
    sine, cosine = np.abs(np.sin(theta)), np.maximum(np.cos(theta), 0)
    back = np.maximum(-np.cos(theta), 0)
    w, d = width[:, None], depth[:, None]
    # squarer across the forehead, rounder across the mouth
    power = np.interp(grid.y, [-110, -60, -10, 40], [2.05, 2.1, 2.3, 2.45]).astype(np.float32)[:, None]
    deep = np.maximum(d, np.float32(0.9) * w) + 6
    radius = ((sine / w) ** power + (cosine / d) ** power + (back / deep) ** power) ** (-1 / power)
    across = radius * np.sin(theta)
    return radius.astype(np.float32), across.astype(np.float32)


def _features(relief: _Relief, person: Person, curves: Curves) -> None:
    p, shot = person, curves.shot
    smile = max(shot.smile, 0.0)
    # brow ridge, sockets, lids
    relief.pair(p.brow_ridge, 24, 16 + 0.4 * shot.brow_raise, 15, 5.5)
    relief.add(0.5 * p.brow_ridge, 0, 15, 12, 7)
    relief.pair(-1.2 * p.eye_depth, p.eye_x - 3, 4.0, 13, 9.5)
    relief.pair(-0.9 * p.eye_depth, p.eye_x - 17, 2, 5.5, 10)
    relief.pair(5.2, p.eye_x, -0.3, 10.5, 6.4)
    relief.pair(1.4 * p.bags, p.eye_x - 1, -10.5, 9, 3.0)
    relief.pair(-1.3 * p.bags - 0.6, p.eye_x - 4, -15.5, 11, 2.8)
    relief.pair(1.0 * smile, p.eye_x, -9, 11, 3)
    # cheeks
    relief.pair(p.cheekbone, 45, -17, 15, 11)
    relief.pair(4.2 * smile, 37, -30, 13, 11)
    relief.pair(-2.6 + 0.8 * smile, 47, -58, 14, 18)
    relief.pair(-2.0, 62, 36, 9, 18)
    # muzzle, philtrum, chin
    relief.add(3.4 - 1.2 * smile, 0, p.mouth_y + 2, 21, 15)
    relief.add(-1.2, 0, p.mouth_y + 13, 2.6, 5)
    relief.pair(0.6, 4.6, p.mouth_y + 12, 2.0, 5)
    relief.add(-3.4, 0, p.mouth_y - 15.5 - curves.jaw_drop, 15, 4.2)
    relief.add(2.6, 0, curves.chin_y + 11, 0.62 * p.chin_width, 8.5)
    # nasolabial folds, from the wing of the nose to beside the mouth
    depth = 0.5 + 1.0 * p.age + 2.0 * smile
    for k in np.linspace(0, 1, 7):
        a = p.nose_width + 4 + (curves.mouth_half + 5 - p.nose_width - 3) * k**1.2
        y = p.nose_y - 1 + (p.mouth_y - p.nose_y + 3) * k
        relief.pair(-0.75 * depth, a, y, 2.6, 3.4)
        relief.pair(0.55 * depth, a + 6, y + 1.5, 3.6, 3.8)
    _lips(relief, curves)


def _lips(relief: _Relief, curves: Curves) -> None:
    p = curves.person
    for k in np.linspace(-0.86, 0.86, 11):
        t = np.asarray(k)
        fade = (1 - abs(k) ** 2.0) * (1 - 0.25 * max(curves.shot.smile, 0))
        a = float(k * curves.mouth_half)
        step = 0.1 * curves.mouth_half
        top = float(0.5 * (curves.lip_outer_upper(t) + curves.lip_inner_upper(t)))
        low = float(0.5 * (curves.lip_outer_lower(t) + curves.lip_inner_lower(t)))
        relief.add(1.5 * fade, a, top, step, 0.42 * p.upper_lip)
        relief.add(2.1 * fade, a, low, step, 0.40 * p.lower_lip)
        relief.add(-1.7 * (0.6 + 0.4 * fade), a, float(curves.mouth_line(t)), step, 1.3)
    relief.pair(-1.8, curves.mouth_half + 1.5, float(curves.mouth_line(np.asarray(1.0))), 3.2, 3.4)


def _nose(relief: _Relief, person: Person) -> None:
    """Bridge as a ridge of changing width and height, then tip and wings."""
    p, grid = person, relief.grid
    y0 = p.nose_y
    keys_y = [17, 7, -4, 0.6 * y0, y0 + 7, y0, y0 - 4.5, y0 - 8.5, y0 - 13, y0 - 22]
    h = p.nose_height
    keys_h = [0.0, 2.2, 0.27 * h, 0.66 * h + p.nose_hump, 0.93 * h, h, 0.86 * h, 0.34 * h, 0.0, 0.0]
    keys_w = [
        7,
        p.nose_bridge,
        p.nose_bridge,
        1.1 * p.nose_bridge,
        0.9 * p.nose_tip,
        p.nose_tip,
        p.nose_tip,
        8,
        8,
        8,
    ]
    rows = np.nonzero((grid.y < 24) & (grid.y > y0 - 22))[0]
    window = (slice(rows[0], rows[-1] + 1), slice(0, grid.width))
    y = grid.y[window[0]]
    order = np.argsort(keys_y)
    height = np.interp(y, np.array(keys_y)[order], np.array(keys_h)[order])
    width = np.interp(y, np.array(keys_y)[order], np.array(keys_w)[order])
    kernel = 2 * int(2.2 * grid.height / 333) + 1
    height = cv2.blur(height.astype(np.float32)[:, None], (1, kernel))
    width = cv2.blur(width.astype(np.float32)[:, None], (1, kernel))
    x = relief.across[window] / width
    relief.field[window] += height * np.exp(-0.5 * np.abs(x) ** 2.3) * (np.cos(grid.theta) > 0)
    wing = p.nose_width - 3.6
    relief.pair(0.36 * h, wing, y0 - 1.5, 3.9, 4.8)
    relief.pair(-1.6, p.nose_width + 2.2, y0 - 1, 2.0, 5.5)
    relief.pair(-0.9, wing - 3.2, y0 + 5, 3.0, 3.0)
    relief.pair(-2.4, 6.2, y0 - 7.5, 3.0, 1.7)


EAR_SPAN = 0.27  # radians from the root of the ear to its rim


def ear_height(person: Person, y: np.ndarray) -> np.ndarray:
    """Position along the ear: -1 lobe .. 1 top."""
    return (y + np.float32(10)) / np.float32(27 * person.ears)


def ear_root(v: np.ndarray) -> np.ndarray:
    """Azimuth (radians) of the ear's front edge at a position along it."""
    return np.float32(1.43) + np.float32(0.10) * v


def _ears(radius: np.ndarray, person: Person, grid: Grid) -> None:
    angle = np.abs(grid.theta)[None, :]
    v = ear_height(person, grid.y[:, None])
    outline = np.clip(1 - np.abs(v + 0.12 * (v - 1) ** 2) ** 2.6, 0, 1) ** 0.6
    u = (angle - ear_root(v)) / EAR_SPAN  # 0 at the cheek, 1 at the rim
    flap = smoothstep(0.0, 0.85, u) * smoothstep(2.3, 1.2, u)
    concha = 1 - 0.5 * np.exp(-(((u - 0.5) / 0.2) ** 2) - ((v + 0.15) / 0.45) ** 2)
    rim = 1 + 0.16 * np.exp(-(((u - 1.0) / 0.16) ** 2))
    radius += (11.5 * person.ears * outline * flap * concha * rim).astype(np.float32)


def _neck(radius: np.ndarray, person: Person, curves: Curves, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    edge = curves.jaw_edge(grid.theta)[None, :].astype(np.float32)
    below = edge - grid.y[:, None]
    head = smoothstep(9.0, -2.0, below)
    theta, y = grid.theta[None, :], grid.y[:, None]
    front = np.interp(grid.y, [-200, -150, -120, -90], [60, 52, 50, 46]).astype(np.float32)[:, None]
    side = (person.neck_width + np.clip(-128 - y, 0, 80) * 0.25).astype(np.float32)
    sine, cosine = np.abs(np.sin(theta)), np.maximum(np.abs(np.cos(theta)), 1e-3)
    neck = ((sine / side) ** 2.2 + (cosine / front) ** 2.2) ** (-1 / 2.2)
    neck = neck + np.float32(2.0 * person.masculinity) * np.exp(-((theta / 0.12) ** 2) - ((y + 137) / 7) ** 2)
    neck *= smoothstep(-45, -80, y)  # none above the jaw's angle
    under = head * radius + (1 - head) * neck
    joined = np.maximum(under, neck)
    return joined.astype(np.float32), ((below > 1.5) & (neck > 0)).astype(np.float32)


def build_surface(person: Person, curves: Curves, grid: Grid) -> Surface:
    """Geometry of a person in an expression, sampled on the grid."""
    radius, across = _base(person, curves, grid)
    relief = _Relief(radius, across, grid)
    _features(relief, person, curves)
    _nose(relief, person)
    if not falls(person):
        _ears(radius, person, grid)
    radius, neck = _neck(radius, person, curves, grid)
    hair = hair_shape(person, grid.theta, grid.y, radius)
    # above the crown the radius goes below zero, so that no ray meets anything there
    over = np.maximum(grid.y - np.float32(CROWN + hair.rise), 0)[:, None]
    full = (radius + hair.thickness - 4 * over).astype(np.float32)
    return Surface(grid, full, radius, across, _normals(full, grid), neck, hair)


def _normals(radius: np.ndarray, grid: Grid) -> np.ndarray:
    step_theta = 2 * THETA_MAX / grid.width
    step_y = (Y_TOP - Y_BOTTOM) / grid.height
    by_theta = cv2.Sobel(radius, cv2.CV_32F, 1, 0, ksize=3, scale=1 / (8 * step_theta))
    by_y = -cv2.Sobel(radius, cv2.CV_32F, 0, 1, ksize=3, scale=1 / (8 * step_y))
    sine, cosine = np.sin(grid.theta)[None, :], np.cos(grid.theta)[None, :]
    slope = by_theta / np.maximum(radius, 5)
    length = np.sqrt(1 + slope * slope + by_y * by_y)
    return np.asarray(
        (np.stack([sine - slope * cosine, -by_y, cosine + slope * sine]) / length).astype(np.float32)
    )

"""Outlines of lids, lips and brows for one person in one expression, on the unrolled face.

Coordinates: `a` sideways (to the right of the picture) and `y` upwards, millimetres from the point midway
between the eyes. Geometry, paint and landmarks all read these same curves, which is why they agree.
"""

from dataclasses import dataclass

import numpy as np

from cfpp.data.procedural.person import Person
from cfpp.data.procedural.shot import Shot


@dataclass(frozen=True)
class Curves:
    """The outlines; `side` is -1 for the left and +1 for the right of the picture."""

    person: Person
    shot: Shot

    # --- eyes -------------------------------------------------------------------------------------------
    def eye_e(self, a: np.ndarray, side: int) -> np.ndarray:
        """Position along the eye: -1 inner corner, +1 outer corner."""
        return (a * side - self.person.eye_x) / self.person.eye_width

    def lid_base(self, e: np.ndarray) -> np.ndarray:
        return self.person.eye_tilt * e

    def lid_upper(self, e: np.ndarray) -> np.ndarray:
        x = np.clip(np.abs(e), 0, 1)
        height = self.person.eye_up * (self.shot.openness * (1 - 0.14 * max(self.shot.smile, 0)))
        return np.asarray(self.lid_base(e) + height * (1 - x**2.3) * (1 - 0.10 * e))

    def lid_lower(self, e: np.ndarray) -> np.ndarray:
        x = np.clip(np.abs(e), 0, 1)
        height = self.person.eye_down * (1 - 0.3 * max(self.shot.smile, 0))
        return np.asarray(self.lid_base(e) - height * (1 - x**2.6) * (1 + 0.16 * e))

    # --- mouth ------------------------------------------------------------------------------------------
    @property
    def mouth_half(self) -> float:
        return self.person.mouth_width * (1 + 0.17 * self.shot.smile - 0.012 * self.shot.mouth_open)

    @property
    def jaw_drop(self) -> float:
        return 0.75 * self.shot.mouth_open

    @property
    def lip_scale(self) -> float:
        return 1 - 0.22 * self.shot.smile

    def mouth_line(self, t: np.ndarray) -> np.ndarray:
        """Where the closed lips meet; t = a / mouth_half."""
        corner = self.person.mouth_curve + 7.5 * self.shot.smile
        middle = -0.9 * np.exp(-((t / 0.16) ** 2)) * (1 - 0.5 * min(1.0, self.shot.mouth_open / 3))
        return np.asarray(
            self.person.mouth_y + 0.8 * self.shot.smile + corner * (np.abs(t) ** 1.9 - 0.3) + middle
        )

    def _gap(self, t: np.ndarray) -> np.ndarray:
        return self.shot.mouth_open * np.clip(1 - np.abs(t / 0.93) ** 2.4, 0, 1)

    def lip_inner_upper(self, t: np.ndarray) -> np.ndarray:
        return self.mouth_line(t) + 0.25 * self._gap(t)

    def lip_inner_lower(self, t: np.ndarray) -> np.ndarray:
        return self.mouth_line(t) - 0.75 * self._gap(t)

    def lip_outer_upper(self, t: np.ndarray) -> np.ndarray:
        x = np.clip(np.abs(t), 0, 1)
        bow = self.person.cupid * (np.exp(-(((x - 0.24) / 0.17) ** 2)) - 0.9 * np.exp(-((x / 0.13) ** 2)))
        height = self.person.upper_lip * self.lip_scale * (1 - x**1.5) ** 0.9 + bow * (1 - x)
        return np.asarray(self.lip_inner_upper(t) + np.maximum(height, 0))

    def lip_outer_lower(self, t: np.ndarray) -> np.ndarray:
        x = np.clip(np.abs(t), 0, 1)
        height = self.person.lower_lip * self.lip_scale * (1 - x**2.2) ** 0.85
        return np.asarray(self.lip_inner_lower(t) - height)

    # --- brows ------------------------------------------------------------------------------------------
    def brow(self, s: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Middle line of a brow; s 0 at the nose .. 1 outside. Returns (a, y)."""
        p, shot = self.person, self.shot
        inner = 9.5 + 0.12 * p.eye_x - 1.6 * shot.frown
        a = inner + 2 * p.brow_width * s
        arch = p.brow_arch * (1 - ((s - 0.62) / 0.62) ** 2)
        y = p.brow_y + arch + p.brow_tilt * (2 * s - 1) + shot.brow_raise * (0.6 + 0.4 * s)
        return side * a, y - 2.2 * shot.frown * (1 - s) ** 2

    def brow_half_thickness(self, s: np.ndarray) -> np.ndarray:
        taper = np.clip(1.15 - 0.95 * s, 0.12, 1) * np.clip(0.55 + 4 * s, 0, 1)
        return 0.5 * self.person.brow_thickness * taper

    def brow_shade(self, a: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Darkening 0..1 of the skin under the brows' hairs at feature coordinates."""
        line_a, line_y = self.brow(np.linspace(-0.04, 1.06, 24), 1)
        half = self.brow_half_thickness(np.linspace(-0.04, 1.06, 24))
        x = np.abs(a)
        middle, wide = np.interp(x, line_a, line_y), np.interp(x, line_a, half)
        fade = np.clip((x - line_a[0] + 2) / 5, 0, 1) * np.clip((line_a[-1] + 1 - x) / 6, 0, 1)
        return np.asarray(
            (np.exp(-0.5 * ((y - middle) / (0.62 * wide + 0.4)) ** 2) * fade).astype(np.float32)
        )

    # --- jaw --------------------------------------------------------------------------------------------
    @property
    def chin_y(self) -> float:
        return self.person.chin_y - self.jaw_drop

    def jaw_edge(self, theta: np.ndarray) -> np.ndarray:
        """Height of the lower edge of the jaw at an azimuth (radians)."""
        degrees = np.abs(np.degrees(theta))
        square = (self.person.jaw_width - 56) * 0.5
        keys = [0, 12, 28, 45, 60, 75, 90, 110, 140]
        drop = [0, 1.0, 5.5, 14 - square, 26 - 1.5 * square, 42 - square, 60, 74, 80]
        return np.asarray(self.chin_y + np.interp(degrees, keys, drop))

"""A smooth displacement that is known exactly: drawn as a few cosine waves, inverted by fixed point.

psi(y) = y + v(y) maps the square of a picture onto itself. v is a sum of products of sines and cosines of
at most `HALF_WAVES` half waves per side; its component across an edge is zero there, so nothing is sampled
outside the picture. Points, displacements and flows are in pixels, (row, column).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cfpp.data.pictures import Picture, to_pictures, to_tensor

Field = NDArray[np.float64]

HALF_WAVES = 6
"""Finest wave: this many half waves per side, so none is shorter than a third of the side."""

STEEPEST = 0.5
"""Frobenius norm that the gradient of v may have: below 1, psi is one-to-one and its inverse converges."""

PRECISION = 1e-3
"""Pixels by which the inverse may miss, at most."""


@dataclass(frozen=True)
class Deformation:
    """psi(y) = y + v(y).

    Attributes:
        across, along: coefficients [HALF_WAVES, HALF_WAVES + 1], pixels: the row displacement is the sum over
            j, k of across[j, k] sin(pi (j + 1) r) cos(pi k c), with r and c the point's row and column over
            side - 1; the column displacement has `along`, r and c exchanged.
        side: of the picture, pixels.
    """

    across: Field
    along: Field
    side: int

    def displacement(self, points: Field) -> Field:
        """v at points [2, N], as [2, N]."""
        (sine_r, cosine_r), (sine_c, cosine_c) = (_waves(p / (self.side - 1)) for p in points)
        rows = (sine_r[1:] * (self.across @ cosine_c)).sum(0)
        columns = (sine_c[1:] * (self.along @ cosine_r)).sum(0)
        return np.stack([rows, columns])

    def gradient(self) -> Field:
        """The derivatives [2, 2, S, S] of v at the pixels: component, then direction."""
        sine, cosine = _waves(np.arange(self.side) / (self.side - 1))
        rate = np.pi * np.arange(HALF_WAVES + 1)[:, None] / (self.side - 1)
        d_sine, d_cosine = rate * cosine, -rate * sine
        return np.stack(
            [
                np.stack([d_sine[1:].T @ self.across @ cosine, sine[1:].T @ self.across @ d_cosine]),
                np.stack([d_cosine.T @ self.along.T @ sine[1:], cosine.T @ self.along.T @ d_sine[1:]]),
            ]
        )

    def determinant(self) -> Field:
        """Of the Jacobian of psi at the pixels, [S, S]; positive everywhere: no fold."""
        (rr, rc), (cr, cc) = self.gradient()
        determinant: Field = (1 + rr) * (1 + cc) - rc * cr
        return determinant

    def inverse(self) -> Field:
        """phi [2, S, S] with psi(x + phi(x)) = x at every pixel x, `PRECISION` pixels off at most.

        y <- x - v(y), a contraction by `STEEPEST`: what is left is no more than the last step.
        """
        grid = _grid(self.side)
        phi = -self.displacement(grid)
        while True:
            better = -self.displacement(grid + phi)
            step = np.hypot(*(better - phi)).max()
            phi = better
            if step < PRECISION:
                return phi.reshape(2, self.side, self.side)

    def apply(self, picture: Picture) -> Picture:
        """The picture at psi(y), by bicubic interpolation: uint8 [S, S, 3]."""
        where = _grid(self.side)
        rows, columns = (where + self.displacement(where)) * (2 / (self.side - 1)) - 1
        places = torch.from_numpy(np.stack([columns, rows], -1)).float().view(1, self.side, self.side, 2)
        sampled = F.grid_sample(
            to_tensor(picture[None]), places, mode="bicubic", padding_mode="border", align_corners=True
        )
        deformed: Picture = to_pictures(sampled)[0]
        return deformed


def draw_deformation(side: int, peak: float, rng: np.random.Generator) -> Deformation:
    """A random deformation of a picture of `side` pixels.

    Args:
        peak: longest displacement, pixels; less where the gradient would be above `STEEPEST`.
        rng: of the coefficients: normal, their deviation one over the frequency.
    """
    order = np.arange(HALF_WAVES + 1)
    fade = 1 / np.hypot(order[1:, None], order)
    across, along = fade * rng.standard_normal((2, *fade.shape))
    unit = Deformation(across, along, side)
    longest = np.hypot(*unit.displacement(_grid(side))).max()
    steepest = np.sqrt((unit.gradient() ** 2).sum((0, 1))).max()
    scale = min(peak / longest, STEEPEST / steepest)
    drawn = Deformation(across * scale, along * scale, side)
    assert drawn.determinant().min() > 0
    return drawn


def _waves(angle: Field) -> tuple[Field, Field]:
    """sin(pi k u) and cos(pi k u) for k = 0 to HALF_WAVES, [HALF_WAVES + 1, N] each, of u [N]."""
    turn = np.exp(1j * np.pi * angle)
    turns = np.empty((HALF_WAVES + 1, len(angle)), np.complex128)
    turns[0] = 1
    for k in range(HALF_WAVES):  # far faster than as many sines
        np.multiply(turns[k], turn, out=turns[k + 1])
    return turns.imag, turns.real


def _grid(side: int) -> Field:
    """The pixels' own places, [2, S * S]."""
    return np.indices((side, side), dtype=np.float64).reshape(2, -1)

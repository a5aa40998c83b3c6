"""Bicubic sampling as a plain loop: Keys' cubic convolution with a = -0.75, the border repeated."""

import numpy as np


def kernel(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys (1981), equation 4, with his -1/2 as `a`; distances in pixels, 0 or more."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def sample(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`plane` [H, W] at positions [H, W] in pixels."""
    total = np.zeros(rows.shape)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for y in range(-1, 3):
        for x in range(-1, 3):
            tap = plane[np.clip(top + y, 0, plane.shape[0] - 1), np.clip(left + x, 0, plane.shape[1] - 1)]
            total += tap * kernel(rows - (top + y)) * kernel(columns - (left + x))
    return total

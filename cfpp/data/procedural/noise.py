"""Noise that is the same whatever the resolution it is sampled at."""

import cv2
import numpy as np

from cfpp.data.draws import generator


def octaves(
    seed: int, words: tuple[str | int, ...], shape: tuple[int, int], levels: range, gain: float = 0.5
) -> np.ndarray:
    """Sum of smooth random fields.

    Level n has 2^n cells on a side and its own generator, so that a coarser sampling only leaves out the
    levels it could not hold.

    Args:
        seed: of the draws.
        words: name of the field.
        shape: (height, width) of the result.
        levels: octaves, the first with amplitude 1.
        gain: amplitude of an octave relative to the one before.

    Returns:
        float32 [height, width], mean about 0.
    """
    height, width = shape
    field = np.zeros(shape, np.float32)
    for level in levels:
        side = 2**level
        if side > 1.3 * max(height, width):
            break
        cells = generator(seed, *words, level).standard_normal((side, side), dtype=np.float32)
        weight = np.float32(gain ** (level - levels.start))
        field += weight * cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    return field


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below low, 1 above high (or the reverse when low > high), smooth between."""
    t = np.clip((x - np.float32(low)) * np.float32(1.0 / (high - low)), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))

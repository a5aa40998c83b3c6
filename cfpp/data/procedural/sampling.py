"""Looking up fields at scattered points."""

import cv2
import numpy as np


def sample(field: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Bilinear sample of a field [h, w] at fractional columns and rows of any one shape."""
    shape, count = column.shape, column.size
    # cv2.remap takes neither long rows nor one dimension: lay the points out in rows of 128
    width = min(128, max(count, 1))
    height = -(-count // width)
    maps = []
    for values in (column, row):
        padded = np.zeros(height * width, np.float32)
        padded[:count] = values.ravel()
        maps.append(padded.reshape(height, width))
    found = cv2.remap(field, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found.ravel()[:count].reshape(shape))

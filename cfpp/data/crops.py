"""The crops that face embedders were trained on: a similarity transform lays five landmarks on a template."""

import cv2
import numpy as np

from cfpp.data.align import similarity_transform

# (x, y) pixels of eyes, nose tip and mouth corners in a crop of 112 x 96 and of 112 x 112 (height x width).
SPHEREFACE_TEMPLATE = np.array(
    [(30.29, 51.70), (65.53, 51.50), (48.03, 71.74), (33.55, 92.37), (62.73, 92.20)]
)
ARCFACE_TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)


def five_point_crop(
    picture: np.ndarray, points: np.ndarray, template: np.ndarray, side: tuple[int, int]
) -> np.ndarray:
    """The similarity transform that takes `points` nearest to the template, applied.

    Args:
        picture: uint8 [H, W, 3].
        points: [5, 2], (x, y) pixels.
        template: [5, 2], (x, y) pixels of the crop.
        side: height and width of the crop.

    Returns:
        uint8 [height, width, 3], black outside of the picture.

    Raises:
        AlignError: the points coincide or are not finite.
    """
    matrix = similarity_transform(points, template)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:  # shrink first, or fine detail folds into the crop
        height, width = picture.shape[:2]
        picture = cv2.resize(picture, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA)
        factor = np.array([picture.shape[1] / width, picture.shape[0] / height])
        matrix = similarity_transform((points + 0.5) * factor - 0.5, template)
    crop: np.ndarray = cv2.warpAffine(picture, matrix, side[::-1], flags=cv2.INTER_LINEAR)
    return crop

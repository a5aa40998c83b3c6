"""Faces laid onto the FFHQ five-point template: a similarity transform that can be inverted."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cfpp.data.components import TEMPLATE_512
from cfpp.data.pictures import Picture
from cfpp.errors import MendableError

GROUND = (132, 133, 135)
"""RGB of what lies beyond the photograph's edge, as in other restorers' test sets: facexlib's borderValue,
which is (135, 133, 132) in BGR."""

_MARGIN = 8  # pixels about the face that are kept, so that interpolation finds its neighbours


class AlignError(MendableError, ValueError):
    """Landmarks that fix no similarity transform; the message says why."""


def scaled_template(size: int) -> NDArray[np.float64]:
    """The FFHQ template [5, 2] in pixels of a face of `size`, pixel centres at whole numbers."""
    return np.asarray((TEMPLATE_512 + 0.5) * (size / 512) - 0.5)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> NDArray[np.float64]:
    """The rotation, scale and shift that takes `source` nearest to `target`, by least squares.

    Closed form of Umeyama (1991) in two dimensions, without mirroring.

    Args:
        source: [N, 2] (x, y), N of 2 or more.
        target: the same shape.

    Returns:
        [2, 3]: target = matrix @ (x, y, 1).

    Raises:
        AlignError: the source points coincide or are not finite, or no scale above 0 fits.
    """
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise AlignError("landmarks that are not finite")
    first, second = source - source.mean(axis=0), target - target.mean(axis=0)
    spread = float((first**2).sum())
    if spread < 1e-6:
        raise AlignError("the landmarks coincide")
    cosine = float((first * second).sum()) / spread
    sine = float((first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).sum()) / spread
    if np.hypot(cosine, sine) < 1e-9:
        raise AlignError("the landmarks fit no face")
    turn = np.array([[cosine, -sine], [sine, cosine]])
    shift = target.mean(axis=0) - turn @ source.mean(axis=0)
    return np.column_stack([turn, shift])


def align(picture: Picture, points: np.ndarray, size: int = 512) -> tuple[Picture, NDArray[np.float64]]:
    """Cut one face out of a photograph, onto the FFHQ template.

    Where the face shrinks, every pixel is the mean over the area that it covers; where it grows, it is
    interpolated linearly, as the degradation of the training faces does. Beyond the photograph lies `GROUND`.

    Args:
        picture: uint8 [H, W, 3] RGB.
        points: [5, 2] (x, y) pixels, as `cfpp.models.face_detector.Faces` has them.
        size: side of the face, pixels.

    Returns:
        The face, uint8 [size, size, 3], and the matrix [2, 3] that takes (x, y, 1) of the photograph to
        (x, y) of the face; `cv2.invertAffineTransform` leads back.

    Raises:
        AlignError: the points fix no transform, or the face they would give lies beside the photograph.
    """
    matrix = similarity_transform(np.asarray(points, np.float64), scaled_template(size))
    (left, top), region = _region(picture, matrix, size)
    local = _after_shift(matrix, -left, -top)
    return resample(region, local, (size, size), cv2.INTER_LINEAR), matrix


def resample(picture: Picture, matrix: np.ndarray, size: tuple[int, int], grow: int) -> Picture:
    """A picture under a similarity transform; where it shrinks, every pixel is the mean over its area.

    Args:
        picture: uint8 [H, W, 3].
        matrix: [2, 3], from (x, y, 1) of the picture to (x, y) of the result.
        size: width and height of the result.
        grow: OpenCV's interpolation for where the picture grows.

    Returns:
        uint8 [height, width, 3]; `GROUND` where the picture does not reach.
    """
    scale = float(np.hypot(*matrix[:, 0]))
    if scale >= 1:
        return _warp(picture, matrix, size, grow)
    if scale < 0.5:  # most of the way by exact averages, so that the rest is a mean of two by two
        height, width = picture.shape[:2]
        near = (max(1, round(2 * scale * width)), max(1, round(2 * scale * height)))
        picture = np.asarray(cv2.resize(picture, near, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = matrix @ _resized(near[0] / width, near[1] / height)
    double = np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]) @ np.vstack([matrix, [0, 0, 1]])
    fine = _warp(picture, double, (2 * size[0], 2 * size[1]), cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.uint8)


def _region(picture: Picture, matrix: np.ndarray, size: int) -> tuple[tuple[int, int], Picture]:
    """(left, top) and pixels of the part of the photograph that the face is made of."""
    edge = size - 0.5
    corners = np.array([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]])
    back = cv2.invertAffineTransform(matrix)
    where = corners @ back[:, :2].T + back[:, 2]
    scale = float(np.hypot(*matrix[:, 0]))
    margin = _MARGIN / min(scale, 1.0)
    height, width = picture.shape[:2]
    left, top = np.clip(np.floor(where.min(axis=0) - margin), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(where.max(axis=0) + margin) + 1, 0, (width, height)).astype(int)
    if right <= left or bottom <= top:
        raise AlignError(f"the face lies beside the photograph of {width} x {height} pixels")
    return (int(left), int(top)), np.ascontiguousarray(picture[top:bottom, left:right])


def _after_shift(matrix: np.ndarray, x: float, y: float) -> NDArray[np.float64]:
    """The matrix for a picture whose pixels have moved by (x, y)."""
    shifted: NDArray[np.float64] = np.array(matrix, np.float64)
    shifted[:, 2] -= matrix[:, :2] @ (x, y)
    return shifted


def _resized(x: float, y: float) -> NDArray[np.float64]:
    """[3, 3]: from pixels of a picture resized by (x, y) to those of the one before."""
    return np.array([[1 / x, 0, 0.5 / x - 0.5], [0, 1 / y, 0.5 / y - 0.5], [0, 0, 1]])


def _warp(picture: Picture, matrix: np.ndarray, size: tuple[int, int], how: int) -> Picture:
    warped = cv2.warpAffine(
        picture, matrix, size, flags=how, borderMode=cv2.BORDER_CONSTANT, borderValue=GROUND
    )
    return np.asarray(warped, np.uint8)

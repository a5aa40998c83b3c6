"""Whole photographs: every face found, restored, and laid back where it was.

A restored face comes back through the inverse of the transform that cut it out, under a mask with soft edges.
Only what lies under a mask changes; every other pixel stays as it was, bit by bit. Where two faces are so
near that their masks meet, a pixel belongs to the face whose middle is nearer, measured in that face's size.

A face that is larger in the photograph than the model's size comes back with no more detail than the model
has pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cfpp.data.align import AlignError, align, resample
from cfpp.data.pictures import Picture
from cfpp.models.face_detector import FaceDetector, Faces
from cfpp.restoration.restorer import RestoreError, Restorer

LEAST_SIDE = 16
"""Pixels, of a face in a photograph; what a model makes of fewer is the face of nobody."""

FEATHER = 0.3  # of half a face's side: over this the mask falls from 1 to 0
_BORDER = 0.2  # of half a face's side: over twice this two neighbours change places
_EDGE = 0.03  # of a face's side: over this it gives way to the photograph before the photograph's edge
_STRIP = 2**21  # pixels that are laid back at once, which bounds the memory of a very large face


@dataclass(frozen=True)
class FoundFaces:
    """The faces of a photograph, cut out.

    Attributes:
        faces: where they are, largest first.
        crops: uint8 [N, S, S, 3] RGB, aligned.
        matrices: float64 [N, 2, 3], from (x, y, 1) of the photograph to (x, y) of the crop.
        left_out: a reason for each face that was found and is not among them.
    """

    faces: Faces
    crops: Picture
    matrices: np.ndarray
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class RestoredPhotograph:
    """A photograph with its faces restored.

    Attributes:
        picture: uint8 [H, W, 3] RGB, as large as the photograph was.
        boxes: float64 [N, 4] of the restored faces, (left, top, right, bottom), pixels, largest face first.
        points: float64 [N, 5, 2], their landmarks as `Faces` has them.
        left_out: a reason for each face that was found and left as it was.
    """

    picture: Picture
    boxes: np.ndarray
    points: np.ndarray
    left_out: tuple[str, ...] = ()


def restore_photograph(
    photograph: Picture,
    detector: FaceDetector,
    restorer: Restorer,
    *,
    w: float = 0.0,
    batch_size: int = 8,
) -> RestoredPhotograph:
    """Restore every face of a photograph; one without faces comes back as it is.

    Args:
        photograph: uint8 [H, W, 3] RGB, upright.
        detector: finds the faces.
        restorer: with a prior.
        w: 0 to 1, see `cfpp.restoration.restorer`.
        batch_size: faces per forward pass.

    Raises:
        RestoreError: no 8-bit RGB photograph, w out of range, or a restorer without a prior.
    """
    found = find_faces(photograph, detector, restorer.size)
    restored = restorer.restore(found.crops, batch_size, w)
    picture = paste_faces(photograph, found.matrices, restored)
    return RestoredPhotograph(picture, found.faces.boxes, found.faces.points, found.left_out)


def find_faces(photograph: Picture, detector: FaceDetector, size: int) -> FoundFaces:
    """The faces of a photograph, aligned.

    Args:
        photograph: uint8 [H, W, 3] RGB, upright.
        detector: finds them.
        size: side of the crops, pixels.

    Raises:
        RestoreError: no 8-bit RGB photograph.
    """
    if (
        photograph.dtype != np.uint8
        or photograph.ndim != 3
        or photograph.shape[2] != 3
        or not photograph.size
    ):
        raise RestoreError(
            f"expected a photograph, uint8 [H, W, 3] RGB; found {photograph.dtype} {list(photograph.shape)}"
        )
    faces = detector.detect(photograph)
    kept, left_out = [], []
    crops = [np.zeros((0, size, size, 3), np.uint8)]
    matrices = [np.zeros((0, 2, 3))]
    for place, (box, points) in enumerate(zip(faces.boxes, faces.points, strict=True)):
        where = f"face at ({', '.join(f'{value:.0f}' for value in box)})"
        if (side := max(box[2] - box[0], box[3] - box[1])) < LEAST_SIDE:
            left_out.append(f"{where}: {side:.0f} pixels, too few to restore")
            continue
        try:
            crop, matrix = align(photograph, points, size)
        except AlignError as error:
            left_out.append(f"{where}: {error}")
            continue
        kept.append(place)
        crops.append(crop[None])
        matrices.append(matrix[None])
    return FoundFaces(
        faces.take(np.array(kept, int)), np.concatenate(crops), np.concatenate(matrices), tuple(left_out)
    )


def paste_faces(photograph: Picture, matrices: np.ndarray, faces: Picture) -> Picture:
    """Lay aligned faces back onto a photograph.

    Args:
        photograph: uint8 [H, W, 3] RGB; not changed.
        matrices: [N, 2, 3], from (x, y, 1) of the photograph to (x, y) of each face.
        faces: uint8 [N, S, S, 3] RGB.

    Returns:
        uint8 [H, W, 3].
    """
    size = faces.shape[1]
    picture = photograph.copy()
    boxes = [_bounds(matrix, size, photograph.shape[:2]) for matrix in matrices]
    for place, (face, matrix, box) in enumerate(zip(faces, matrices, boxes, strict=True)):
        near = [m for at, m in enumerate(matrices) if at != place and _meet(boxes[at], box)]
        left, top, right, bottom = box
        step = max(1, _STRIP // max(1, right - left))
        back = cv2.invertAffineTransform(matrix)
        for start in range(top, bottom, step):
            end = min(bottom, start + step)
            mask = _mask(matrix, near, size, (left, start, right, end), photograph.shape)[..., None]
            back_here = back - [[0, 0, left], [0, 0, start]]
            laid = resample(face, back_here, (right - left, end - start), cv2.INTER_CUBIC)
            # The shares of all faces in a pixel sum to 1 or less, so that no order of faces overflows.
            change = mask * (laid.astype(np.float32) - photograph[start:end, left:right])
            part = picture[start:end, left:right]
            part[:] = np.rint(part + change)
    return picture


def _bounds(matrix: np.ndarray, size: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the photograph's pixels that a face's square can cover."""
    edge = size - 0.5
    corners = np.array([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]])
    back = cv2.invertAffineTransform(matrix)
    where = corners @ back[:, :2].T + back[:, 2]
    limits = (shape[1], shape[0])
    left, top = np.clip(np.floor(where.min(axis=0)), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(where.max(axis=0)) + 1, 0, limits).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _meet(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _mask(
    matrix: np.ndarray,
    near: list[np.ndarray],
    size: int,
    box: tuple[int, int, int, int],
    shape: tuple[int, ...],
) -> np.ndarray:
    """A face's share in the photograph's pixels of `box`, float32 [h, w], 0 to 1.

    Args:
        near: the matrices of other faces that may claim some of the pixels.
        shape: of the photograph.
    """
    own = _distance(matrix, size, box)
    mask = _smooth((1 - own) / FEATHER)
    for other in near:
        mask *= _smooth(0.5 + (_distance(other, size, box) - own) / (2 * _BORDER))
    # the model saw the ground beyond the photograph's edge, and some of it is in the pixels before the edge
    scale = float(np.hypot(*matrix[:, 0]))
    rows, columns = (
        _smooth((scale * np.minimum(place, length - 1 - place) - 1) / (_EDGE * size)).astype(np.float32)
        for place, length in ((np.arange(*box[1::2]), shape[0]), (np.arange(*box[::2]), shape[1]))
    )
    mask *= rows[:, None] * columns
    return mask


def _distance(matrix: np.ndarray, size: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """How far pixels are from a face's middle, float32 [h, w]; 1 is its square with round corners."""
    left, top, right, bottom = box
    x = np.arange(left, right, dtype=np.float64)
    y = np.arange(top, bottom, dtype=np.float64)[:, None]
    total: np.ndarray = np.zeros((bottom - top, right - left), np.float32)
    for row in (matrix - [[0, 0, (size - 1) / 2]]) / (size / 2):
        squares = np.square((row[0] * x + row[2]).astype(np.float32) + (row[1] * y).astype(np.float32))
        total += squares * squares
    distance: np.ndarray = np.sqrt(np.sqrt(total, out=total), out=total)
    return distance


def _smooth(share: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and between them a step without corners."""
    t = np.clip(share, 0, 1)
    smooth: np.ndarray = t * t * (3 - 2 * t)
    return smooth

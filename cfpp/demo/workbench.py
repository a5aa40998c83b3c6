"""What the demo page does, without the page: read an upload, restore it, mark its faces, draw examples."""

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from cfpp.config import Params
from cfpp.data.picture_files import read_picture_file
from cfpp.data.pictures import Picture, resize_square
from cfpp.data.procedural import render
from cfpp.errors import MendableError
from cfpp.models.face_detector import DetectorError, FaceDetector
from cfpp.progress import progress_bar
from cfpp.registry.restorers import Opened
from cfpp.restoration.photographs import restore_photograph
from cfpp.restoration.restorer import RestoreError
from cfpp.synthesis.degraded import degrader

log = logging.getLogger(__name__)

MAX_BYTES = 50 << 20  # of an upload
MAX_PIXELS = 50_000_000  # a phone's photograph; the browser gets two pictures of this size as PNG
EXAMPLES = 6

_STRANGER = 90_000  # number of the first example's person; the pipeline's people are numbered from 0
_EXAMPLE_SIDE = 256  # pixels at most: larger faces take seconds each to draw
_BOX, _POINT = (255, 208, 0), (0, 220, 255)  # RGB


class Kind(StrEnum):
    """What an upload is."""

    PHOTOGRAPH = "photograph"
    ALIGNED = "single aligned face"


class NothingChosenError(MendableError):
    """There is nothing to restore yet."""


@dataclass(frozen=True)
class Outcome:
    """What the page shows of one restoration.

    Attributes:
        before, after: uint8 [H, W, 3] RGB, equally large.
        marked: the input with its faces marked, uint8; of an aligned face, the input as it is.
        message: what was done, in one line.
    """

    before: Picture
    after: Picture
    marked: Picture
    message: str


@dataclass(frozen=True)
class Workbench:
    """A restorer, with a face detector where there is one.

    Attributes:
        opened: the restorer, with what the page says of it.
        detector: finds the faces of photographs; None: only aligned faces can be restored.
        why_aligned_only: the reason for that, with what to do about it; "" where there is a detector.
        batch_size: faces per forward pass.
    """

    opened: Opened
    detector: FaceDetector | None
    why_aligned_only: str = ""
    batch_size: int = 8

    @classmethod
    def of(cls, opened: Opened, weights_root: str) -> "Workbench":
        """With the detector in `weights_root`, if it is there.

        Raises:
            MendableError: the restorer cannot restore single pictures; a detector's file is damaged, or
                `weights_root` is no folder.
        """
        restorer = opened.restorer
        if restorer.prior is None:
            raise MendableError(
                f"{opened.title}: knows another prior's pictures only (prior.kind: folder), so that there is "
                f"nothing to do with an upload; use `cfpp restore --gp`"
            )
        try:
            return cls(opened, FaceDetector.load(weights_root, device=restorer.device))
        except DetectorError as error:
            return cls(opened, None, f"Aligned faces only: {error}.")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What can be restored, the usual first."""
        return (Kind.PHOTOGRAPH, Kind.ALIGNED) if self.detector else (Kind.ALIGNED,)

    def restore(self, data: bytes | None, kind: Kind, w: float) -> Outcome:
        """Restore an upload.

        Args:
            data: of the file; None: nothing was chosen.
            w: 0 to 1; see `cfpp.restoration.restorer`.

        Raises:
            NothingChosenError: there is no data.
            PictureError: not a picture that can be read, or one that is too large.
            RestoreError: not a square aligned face, or w out of range.
        """
        picture = read(data)
        start = time.perf_counter()
        if kind is Kind.PHOTOGRAPH and self.detector is not None:
            outcome = self._photograph(picture, self.detector, w)
        else:
            outcome = self._aligned(picture, w)
        log.info("%s w = %.2f", outcome.message, w)
        return Outcome(
            outcome.before,
            outcome.after,
            outcome.marked,
            f"{outcome.message} w = {w:.2f}, {time.perf_counter() - start:.1f} s.",
        )

    def _aligned(self, picture: Picture, w: float) -> Outcome:
        restorer = self.opened.restorer
        height, width = picture.shape[:2]
        if height != width:
            advice = (
                "; or is it a photograph?" if self.detector else ", cut as those the model was trained on"
            )
            raise RestoreError(f"it is {width} x {height} pixels; an aligned face is square{advice}")
        [after] = restorer.restore(np.array(picture)[None], w=w)  # what was read is not to be written to
        message = f"Aligned face, {width} x {height} pixels, restored at {restorer.size} x {restorer.size}."
        return Outcome(resize_square(picture, restorer.size), after, picture, message)

    def _photograph(self, picture: Picture, detector: FaceDetector, w: float) -> Outcome:
        restored = restore_photograph(
            picture, detector, self.opened.restorer, w=w, batch_size=self.batch_size
        )
        done, kept = _faces(len(restored.boxes)), restored.left_out
        message = f"Photograph, {done} restored." if len(restored.boxes) else "No face was restored."
        if kept:
            message += f" Left as they were: {'; '.join(kept)}."
        elif not len(restored.boxes):
            message = "No face was found, so nothing was changed."
        return Outcome(picture, restored.picture, mark(picture, restored.boxes, restored.points), message)


def _faces(count: int) -> str:
    return "1 face" if count == 1 else f"{count} faces"


def read(data: bytes | None) -> Picture:
    """The picture in an upload, uint8 [H, W, 3] RGB.

    Raises:
        NothingChosenError: there is no data.
        PictureError: not a picture that can be read, or one that is too large.
    """
    if data is None:
        raise NothingChosenError("Choose a picture first: upload one, or click an example.")
    return read_picture_file(data, MAX_PIXELS).rgb


def mark(picture: Picture, boxes: np.ndarray, points: np.ndarray) -> Picture:
    """A copy with a box around each face and a dot on each landmark.

    Args:
        picture: uint8 [H, W, 3] RGB.
        boxes: [N, 4], (left, top, right, bottom), pixels.
        points: [N, 5, 2], (x, y), pixels.
    """
    marked = picture.copy()
    thick = max(1, round(max(picture.shape[:2]) / 300))
    for left, top, right, bottom in np.rint(boxes).astype(int).tolist():
        cv2.rectangle(marked, (left, top), (right, bottom), _BOX, thick)
    for x, y in np.rint(points).astype(int).reshape(-1, 2).tolist():
        cv2.circle(marked, (x, y), thick, _POINT, cv2.FILLED)
    return marked


def examples(params: Params, size: int, numbers: Sequence[int] = range(EXAMPLES)) -> list[Picture]:
    """Degraded faces of people who do not exist and whom no training has seen, uint8 [S, S, 3] RGB.

    Degraded as the pipeline's held-out faces are. S is `size`, or 256 where that is larger.
    """
    drawn, side = degrader(params), min(size, _EXAMPLE_SIDE)
    pictures = []
    with closing(progress_bar(len(numbers), "draw examples", "face")) as bar:
        for number in numbers:
            face = render(params.run.seed, _STRANGER + number, 0, side)
            [variant] = drawn.degrade(face.key, face.picture, "test")
            pictures.append(variant.picture)
            bar.update(1)
    return pictures

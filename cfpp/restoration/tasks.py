"""What is done with a file before and after the model: it is an aligned face, or a photograph."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from cfpp.data.picture_files import PictureFile, read_picture_file
from cfpp.data.pictures import Picture, PictureError
from cfpp.data.work_list import Work
from cfpp.models.face_detector import FaceDetector
from cfpp.restoration.photographs import find_faces, paste_faces
from cfpp.restoration.restorer import RestoreError, Restorer


@dataclass(frozen=True)
class Prepared:
    """A file on its way.

    Attributes:
        work: where it comes from and goes to.
        file: what it holds.
        stacks: what the model takes, each uint8 [N, S, S, 3]: one or two, of all its N faces.
        matrices: [N, 2, 3] from the picture to each face; none where the picture is a face.
        notes: what was altered or left out.
    """

    work: Work
    file: PictureFile
    stacks: tuple[Picture, ...]
    matrices: np.ndarray
    notes: tuple[str, ...]

    @property
    def faces(self) -> int:
        """Number of faces."""
        return len(self.stacks[0])

    @property
    def pixels(self) -> int:
        """Of the whole picture."""
        height, width = self.file.rgb.shape[:2]
        return int(height * width)


class Task(Protocol):
    """What is done with a file before and after the model; called from several threads."""

    def prepare(self, work: Work, file: PictureFile) -> Prepared:
        """Find what the model takes."""
        ...

    def finish(self, prepared: Prepared, restored: Picture) -> Picture:
        """The picture to write, of its restored faces uint8 [N, S, S, 3]."""
        ...


@dataclass(frozen=True)
class AlignedFaces:
    """Every file is one aligned face.

    Args:
        restorer: what the faces are prepared for.
        side: of the restored faces, pixels.
        gp: folder of I_G under the files' names, whatever their endings; the files are then I_F.
    """

    restorer: Restorer
    side: int
    gp: Path | None = None

    def prepare(self, work: Work, file: PictureFile) -> Prepared:
        """See `Task`.

        Raises:
            RestoreError: not square, or not one I_G.
            PictureError: I_G cannot be read.
        """
        stacks = [self._at_size(file)]
        if self.gp is not None:
            path = _same_stem(self.gp / work.name.parent, work.name.stem)
            try:
                stacks.append(self._at_size(read_picture_file(path.read_bytes())))
            except (PictureError, RestoreError) as error:
                raise PictureError(f"{path}: {error}") from error
        return Prepared(work, file, tuple(stacks), np.zeros((0, 2, 3)), ())

    def finish(self, prepared: Prepared, restored: Picture) -> Picture:
        """See `Task`."""
        [face] = restored
        if len(face) == self.side:
            return np.asarray(face)
        how = cv2.INTER_AREA if len(face) > self.side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(face, (self.side, self.side), interpolation=how), np.uint8)

    def _at_size(self, file: PictureFile) -> Picture:
        height, width = file.rgb.shape[:2]
        if height != width:
            raise RestoreError(f"{width} x {height} pixels: an aligned face is square")
        return self.restorer.at_size(file.rgb[None])


@dataclass(frozen=True)
class WholePhotographs:
    """Every file is a photograph with any number of faces.

    Args:
        restorer: what the faces are prepared for.
        detector: finds them.
    """

    restorer: Restorer
    detector: FaceDetector

    def prepare(self, work: Work, file: PictureFile) -> Prepared:
        """See `Task`."""
        found = find_faces(file.rgb, self.detector, self.restorer.size)
        return Prepared(work, file, (found.crops,), found.matrices, found.left_out)

    def finish(self, prepared: Prepared, restored: Picture) -> Picture:
        """See `Task`."""
        return paste_faces(prepared.file.rgb, prepared.matrices, restored)


def _same_stem(folder: Path, stem: str) -> Path:
    """The picture in `folder` that is called so, whatever its suffix."""
    found = [
        other for other in folder.glob(f"{glob.escape(stem)}.*") if other.stem == stem and other.is_file()
    ]
    if len(found) != 1:
        raise RestoreError(f"{folder}: holds {len(found)} pictures called {stem}, expected one")
    return found[0]

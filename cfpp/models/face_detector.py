"""Faces in photographs: where they are, and their five landmarks, by facexlib's RetinaFace.

The network's landmarks are steadiest where the face has the size of those it was trained on, so every face
that it finds is looked at once more, alone and at one size.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import cv2
import numpy as np
import torch

from cfpp.errors import MendableError
from cfpp.models.catalogue import RETINAFACE_MOBILE, RETINAFACE_RESNET50
from cfpp.models.external import ExternalFile, ExternalFileError, find_external, load_state, why_missing

DetectorName = Literal["resnet50", "mobile0.25"]

KNOWN: dict[DetectorName, tuple[ExternalFile, ...]] = {
    "resnet50": RETINAFACE_RESNET50,
    "mobile0.25": RETINAFACE_MOBILE,
}
CONFIDENCE = 0.8
"""Score from which a find counts as a face, unless said otherwise; facexlib's own choice is the same."""

_LONGEST = 1024  # pixels; larger photographs are shrunk: the network's largest anchor is 512
_CLOSE_UP, _MARGIN = 256, 1.8  # the second look: pixels a side, and share of the face's box
_OVERLAP = 0.4  # intersection over union above which two finds are one face


class DetectorError(MendableError, LookupError):
    """There is no detector, or not the one asked for; the message says how to get it."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Faces:
    """The faces of a photograph, largest first.

    Attributes:
        boxes: float64 [N, 4], (left, top, right, bottom), pixels.
        points: float64 [N, 5, 2], (x, y) pixels, pixel centres at whole numbers: eyes, nose tip, corners
            of the mouth, as the picture's left and right.
        scores: float64 [N], 0 to 1.
    """

    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, places: np.ndarray) -> "Faces":
        """These faces, in this order."""
        return Faces(self.boxes[places], self.points[places], self.scores[places])


def find_detector(
    weights_root: str | Path, which: DetectorName | None = None
) -> tuple[DetectorName, Path, ExternalFile] | None:
    """The weights in `weights_root`, ResNet-50 before mobile0.25; None where there are none.

    Raises:
        ExternalFileError, ParamsError: as `FaceDetector.load`.
    """
    for name in KNOWN if which is None else (which,):
        found = find_external(weights_root, KNOWN[name])
        if found is not None:
            return name, *found
    return None


class FaceDetector:
    """RetinaFace, frozen; several threads may use it.

    Args:
        network: maps BGR pictures to facexlib's rows; see `load`.
        name: what reports call it.
    """

    def __init__(self, network: Any, name: str) -> None:
        self._network = network
        self._turn = Lock()  # facexlib's network keeps what it works on in itself
        self.name = name

    @classmethod
    def load(
        cls, weights_root: str | Path, which: DetectorName | None = None, device: str | torch.device = "cpu"
    ) -> "FaceDetector":
        """The detector in `weights_root`; ResNet-50 before mobile0.25 where `which` does not say.

        Nothing is downloaded or written.

        Raises:
            DetectorError: it is not there.
            ExternalFileError: a file of its name is damaged or another one.
            ParamsError: `weights_root` is no folder.
        """
        found = find_detector(weights_root, which)
        if found is None:
            names = list(KNOWN) if which is None else [which]
            wanted = [file for name in reversed(names) for file in KNOWN[name]]
            raise DetectorError(f"finding faces {why_missing(weights_root, wanted)}")
        name, path, file = found
        return cls(_network(name, path, torch.device(device)), file.label)

    def detect(self, picture: np.ndarray, confidence: float = CONFIDENCE) -> Faces:
        """The faces of a photograph, largest first.

        Args:
            picture: uint8 [H, W, 3] RGB, upright.
            confidence: least score, 0 to 1.
        """
        shrunk, factors = _shrink(picture, _LONGEST / max(picture.shape[:2]))
        found = self._look(shrunk, confidence)
        faces = Faces(
            boxes=_moved(found.boxes.reshape(-1, 2, 2), factors).reshape(-1, 4),
            points=_moved(found.points, factors),
            scores=found.scores,
        )
        areas = np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1)
        faces = faces.take(np.argsort(-areas, kind="stable"))
        points = [
            self._again(picture, box, first) for box, first in zip(faces.boxes, faces.points, strict=True)
        ]
        return Faces(faces.boxes, np.array(points).reshape(-1, 5, 2), faces.scores)

    def _again(self, picture: np.ndarray, box: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Landmarks [5, 2] of the face in `box` from a close-up; the first ones where that shows none."""
        half = _MARGIN * float((box[2:] - box[:2]).max()) / 2
        middle = (box[:2] + box[2:]) / 2
        height, width = picture.shape[:2]
        left, top = np.clip(np.floor(middle - half), 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(np.ceil(middle + half) + 1, (left + 1, top + 1), (width, height)).astype(int)
        close, factors = _resize(picture[top:bottom, left:right], _CLOSE_UP / max(right - left, bottom - top))
        found = self._look(close, CONFIDENCE / 2)
        if not len(found):
            return points
        seen = _moved(found.points, factors) + np.array([left, top])
        distances = np.linalg.norm(seen.mean(axis=1) - points.mean(axis=0), axis=1)
        nearest = int(distances.argmin())
        # another face in the close-up is not this one
        same = distances[nearest] < np.linalg.norm(points[0] - points[1]) / 2
        return np.asarray(seen[nearest]) if same else points

    def _look(self, picture: np.ndarray, confidence: float) -> Faces:
        bgr = np.ascontiguousarray(picture[..., ::-1])
        with self._turn, torch.inference_mode():
            rows = np.asarray(self._network.detect_faces(bgr, confidence, _OVERLAP), dtype=np.float64)
        return Faces(rows[:, :4], rows[:, 5:15].reshape(-1, 5, 2), rows[:, 4])


def _network(which: DetectorName, path: Path, device: torch.device) -> Any:
    """facexlib's RetinaFace with the weights of `path`; its own loader would go to the network."""
    from facexlib.detection.retinaface import RetinaFace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names of torchvision's arguments
        network = RetinaFace(network_name=which, device=device)
    state = {name.removeprefix("module."): value for name, value in load_state(path).items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ExternalFileError(f"{path}: not the weights of RetinaFace {which}: {error}") from error
    return network.eval().to(device)


def _shrink(picture: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    return _resize(picture, factor) if factor < 1 else (picture, np.ones(2))


def _resize(picture: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture at about `factor`, and by what (x, y) its sides really changed."""
    height, width = picture.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(picture), size, interpolation=how)
    return resized, np.array([size[0] / width, size[1] / height])


def _moved(points: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Points [..., 2] of a resized picture in pixels of the one before."""
    moved: np.ndarray = (points + 0.5) / factors - 0.5
    return moved

"""Landmark detection: the embedded probe for procedural faces, FAN or an ONNX network for photographs."""

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch

from cfpp.config import WeightsParams
from cfpp.evaluation.identity import Domain, probe_outputs
from cfpp.evaluation.onnx_network import OnnxNetwork
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.catalogue import FAN, PFLD
from cfpp.models.external import ExternalFileError, find_external, load_state, why_missing
from cfpp.models.probe import Probe, probe_figures
from cfpp.objectives.face_embedding import load_frozen

# The square about an FFHQ-aligned face, in pixels of 512: centre x, centre y, side.
_BOX = (256.0, 300.0, 340.0)
_MOVES = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))  # (row, column)

MIRRORED = np.concatenate(
    [
        np.arange(16, -1, -1),  # jaw
        np.arange(26, 16, -1),  # brows
        np.arange(27, 31),  # bridge of the nose
        np.arange(35, 30, -1),  # nostrils
        [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40],  # eyes
        [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55],  # outer lips
        [64, 63, 62, 61, 60, 67, 66, 65],  # inner lips
    ]
)
"""Which of the 68 points each one is on the mirrored face."""


class LandmarkDetector(Protocol):
    """Finds the 68 points of the 300-W convention."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """[B, 68, 2], (x, y) in pixels, a pixel's middle at whole numbers.

        Args:
            pictures: uint8 [B, S, S, 3], RGB, aligned faces.
        """
        ...


class ProbeLandmarks:
    """The probe's landmark head. For procedural faces only. Its name states how far off it is by itself."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        own = probe_figures()["landmark_error_percent_interocular"]
        self.name = f"embedded probe (procedural faces; itself {own:.1f} % off the truth)"

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """See `LandmarkDetector`."""
        return probe_outputs(self._probe, pictures)[0]


class OnnxLandmarks:
    """An ONNX network of 68 landmarks as PFLD is one, on a square about the face.

    Args:
        path: .onnx file; in: [n, 3, S, S] float32, RGB in [0, 1]; out: x and y of each point in turn, 136
            numbers, as shares of the square.
        name: what reports call it.

    Raises:
        ExternalFileError: not such a network.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._network = OnnxNetwork(path)
        if len(set(self._network.side)) != 1:
            raise ExternalFileError(f"{path}: takes {self._network.side}; a landmark network takes a square")

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """See `LandmarkDetector`.

        Raises:
            ExternalFileError: the answer is not 68 points in shares of the square.
        """
        crops, (left, top, pixels) = face_squares(pictures, self._network.side[0])
        shares = self._network.run(crops.transpose(0, 3, 1, 2) / 255)
        if shares.size != len(pictures) * 136 or not (np.abs(shares) < 3).all():
            raise ExternalFileError(
                f"{self._network.path}: gives {shares.shape}; expected 68 points in shares of the picture"
            )
        corner = np.array([left, top], dtype=np.float32)
        points: np.ndarray = shares.reshape(-1, 68, 2) * pixels + corner - 0.5
        return points


class SteadyLandmarks:
    """The mean of what a detector finds in several views of each picture: as it is and mirrored, each also
    moved by 1/64 of the side in four directions.

    A small network is unsteady. On a restored face of 128 pixels, noise of 4 levels of 255 moves PFLD's
    points by 2.5 % of the eye distance, as much as two restorations of the face differ, and their mean by
    1.6 % (docs/experiments.md).
    """

    def __init__(self, detector: LandmarkDetector) -> None:
        self._detector = detector
        self.name = f"{detector.name}, mean of {2 * len(_MOVES)} views"

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """See `LandmarkDetector`."""
        side = pictures.shape[1]
        found = []
        for down, right in _MOVES:
            move = np.array([right, down]) * max(round(side / 64), 1)
            # What comes in at the other side lies outside the square about the face.
            moved = np.roll(pictures, (move[1], move[0]), (1, 2))
            found.append(self._detector.detect(moved) - move)
            mirrored = self._detector.detect(np.ascontiguousarray(moved[:, :, ::-1]))[:, MIRRORED]
            found.append(np.stack([side - 1 - mirrored[..., 0], mirrored[..., 1]], -1) - move)
        points: np.ndarray = np.mean(found, axis=0)
        return points


class FaceAlignmentNetwork:
    """facexlib's FAN (adaptive wing loss, four hourglasses, WFLW).

    It reads a square of 256 x 256, RGB in [0, 1], and answers one 64 x 64 heat map for each of 98 points,
    which facexlib's table maps to the 68 of 300-W.

    Raises:
        ExternalFileError: `path` is no state dict of that network.
    """

    name = FAN[0].label

    def __init__(self, path: Path) -> None:
        from facexlib.alignment import awing_arch

        state = load_state(path)
        with torch.device("meta"):  # without weights of its own: the file has all of them
            self._network = awing_arch.FAN(num_modules=4, num_landmarks=98, device="cpu").eval()
        load_frozen(self._network, state, path)

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """See `LandmarkDetector`."""
        from facexlib.alignment import landmark_98_to_68

        crops, (left, top, pixels) = face_squares(pictures, 256)
        with torch.inference_mode():
            inputs = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))) / 255
            stages, _ = self._network(inputs)
        cells = heat_peaks(stages[-1][:, :-1].numpy())  # the last map is the face's outline
        points = cells * (pixels / 64) + np.array([left, top]) - 0.5
        return np.stack([landmark_98_to_68(own) for own in points])


def choose_landmarks(domain: Domain, weights: WeightsParams, probe: Probe) -> LandmarkDetector | Unavailable:
    """The detector for faces of `domain` (params `data.source`), or why there is none.

    The file that `weights.landmarks` names; without one the probe for procedural faces, and for photographs
    what lies in `weights.root`: FAN, else PFLD.

    Raises:
        ParamsError, ExternalFileError: a file or folder is not what it should be.
    """
    if weights.landmarks:
        return SteadyLandmarks(OnnxLandmarks(Path(weights.landmarks), Path(weights.landmarks).name))
    if domain == "procedural":
        return ProbeLandmarks(probe)
    if found := find_external(weights.root, FAN):
        return FaceAlignmentNetwork(found[0])
    if found := find_external(weights.root, PFLD):
        return SteadyLandmarks(OnnxLandmarks(found[0], found[1].label))
    reason = why_missing(weights.root, (*FAN, *PFLD))
    return Unavailable(f"{reason}; the embedded probe knows procedural faces only")


def face_squares(pictures: np.ndarray, side: int) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The square about each aligned face, resized: means over areas where it shrinks, linear where it grows.

    Args:
        pictures: uint8 [B, S, S, 3].
        side: of the result.

    Returns:
        float32 [B, side, side, 3], 0 to 255; left, top and side of the square in pixels of the pictures.
    """
    x, y, length = (value * pictures.shape[1] / 512 for value in _BOX)
    left, top = x - length / 2, y - length / 2
    if length >= side:
        left, top, length = round(left), round(top), round(length)
        crops = pictures[:, top : top + length, left : left + length]
        squares = [cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in crops]
    else:  # a small face half a pixel off would be another one to the network
        scale = side / length
        matrix = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
        edge = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
        squares = [cv2.warpAffine(picture, matrix, (side, side), **edge) for picture in pictures]
    return np.stack(squares).astype(np.float32), (left, top, length)


def heat_peaks(maps: np.ndarray) -> np.ndarray:
    """Where each heat map is highest, moved by a quarter of a cell towards the higher neighbour.

    Args:
        maps: [B, N, H, W].

    Returns:
        float64 [B, N, 2], (x, y) in cells, the middle of the first cell at 0.5.
    """
    height, width = maps.shape[2:]
    row, column = np.divmod(maps.reshape(*maps.shape[:2], -1).argmax(axis=2), width)
    batch, point = np.ogrid[: maps.shape[0], : maps.shape[1]]

    def rise(down: int, right: int) -> np.ndarray:
        """Sign of the difference between the neighbours after and before; 0 at the border."""
        inside = (row >= down) & (row < height - down) & (column >= right) & (column < width - right)
        after = maps[batch, point, np.minimum(row + down, height - 1), np.minimum(column + right, width - 1)]
        before = maps[batch, point, np.maximum(row - down, 0), np.maximum(column - right, 0)]
        return np.where(inside, np.sign(after - before), 0)

    return np.stack([column + 0.5 + 0.25 * rise(0, 1), row + 0.5 + 0.25 * rise(1, 0)], axis=2)

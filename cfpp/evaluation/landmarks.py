"""Landmark detection: the embedded probe for procedural faces, PFLD for photographs."""

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from cfpp.evaluation.identity import Domain, onnx_session, probe_outputs
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.external import ExternalFile, find_external, why_missing
from cfpp.models.probe import Probe, probe_figures

PFLD = (
    ExternalFile(
        "pfld_68.onnx", "7d7bbd5c6a1d9272e58d9773898284a1905d872eba9a662df9b5f20f1ba6f83e", "PFLD, 68 points"
    ),
)


class LandmarkDetector(Protocol):
    """Finds the 68 points of the 300-W convention."""

    name: str

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """[B, 68, 2], (x, y) in pixels, of uint8 pictures [B, S, S, 3], RGB, aligned faces."""
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
    """PFLD on a square about the face: 112 x 112, RGB in [0, 1]; it answers in shares of the square."""

    name = PFLD[0].label
    # Where an FFHQ-aligned face lies, in pixels of 512: centre x, centre y, side.
    _BOX = (256.0, 300.0, 340.0)
    _INPUT = 112

    def __init__(self, path: Path) -> None:
        self._session = onnx_session(path)

    def detect(self, pictures: np.ndarray) -> np.ndarray:
        """See `LandmarkDetector`."""
        scale = pictures.shape[1] / 512
        x, y, side = (value * scale for value in self._BOX)
        left, top = round(x - side / 2), round(y - side / 2)
        pixels = round(side)
        crops = pictures[:, top : top + pixels, left : left + pixels]
        inputs = np.stack(
            [cv2.resize(crop, (self._INPUT,) * 2, interpolation=cv2.INTER_AREA) for crop in crops]
        )
        inputs = inputs.astype(np.float32).transpose(0, 3, 1, 2) / 255
        shares = self._session.run(None, {"input": np.ascontiguousarray(inputs)})[0].reshape(-1, 68, 2)
        points: np.ndarray = shares * pixels + np.array([left, top], dtype=np.float32)
        return points


def choose_landmarks(domain: Domain, weights_root: str, probe: Probe) -> LandmarkDetector | Unavailable:
    """The detector for faces of `domain` (params `data.source`), or why there is none."""
    if domain == "procedural":
        return ProbeLandmarks(probe)
    found = find_external(weights_root, PFLD)
    if found is None:
        return Unavailable(
            why_missing(weights_root, PFLD) + "; the embedded probe knows procedural faces only"
        )
    return OnnxLandmarks(found[0])

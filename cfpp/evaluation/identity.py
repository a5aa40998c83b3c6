"""Who is in a picture: the embedded probe for procedural faces, ArcFace or an ONNX network for photos."""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from cfpp.config import WeightsParams
from cfpp.data.align import scaled_template
from cfpp.data.crops import ARCFACE_TEMPLATE, SPHEREFACE_TEMPLATE, five_point_crop
from cfpp.evaluation.onnx_network import OnnxNetwork
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.catalogue import ARCFACE, MOBILEFACENET
from cfpp.models.external import ExternalFileError, find_external, why_missing
from cfpp.models.probe import Probe
from cfpp.objectives.face_embedding import arcface_network

Domain = Literal["procedural", "folder"]

LEAST_NUMBERS = 64  # of an embedding; published embedders of faces give 128 and more
_LANDMARKS = 136  # numbers of 68 points: a network that gives these is a detector of landmarks


class IdentityEmbedder(Protocol):
    """Says who is in a picture; the cosine of two embeddings is their likeness."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def embed(self, pictures: np.ndarray, landmarks5: np.ndarray | None = None) -> np.ndarray:
        """Embeddings [B, D] of length 1.

        Args:
            pictures: uint8 [B, S, S, 3], RGB, aligned faces.
            landmarks5: [B, 5, 2] (x, y) pixels where known; None takes the FFHQ template.
        """
        ...


class EmbeddedIdentity:
    """The probe's identity head. For procedural faces only."""

    name = "embedded probe (procedural faces)"

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def embed(self, pictures: np.ndarray, landmarks5: np.ndarray | None = None) -> np.ndarray:
        """See `IdentityEmbedder`; the probe was trained on whole faces and needs no landmarks."""
        return probe_outputs(self._probe, pictures)[1]


class OnnxIdentity:
    """Any ONNX embedder of five-point crops, RGB; the height and width of its input say which crop.

    112 x 96 is SphereFace's (its template, (x - 127.5) / 128), 112 x 112 is ArcFace's, as of InsightFace
    ((x - 127.5) / 127.5).

    Args:
        path: .onnx file, [n, 3, H, W] float32 in, [n, D] out, D of `LEAST_NUMBERS` or more.
        name: what reports call it.

    Raises:
        ExternalFileError: not such a network.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._network = OnnxNetwork(path)
        if self._network.side not in ((112, 96), (112, 112)):
            height, width = self._network.side
            raise ExternalFileError(
                f"{path}: takes {height} x {width} pixels; a face embedder takes 112 x 96 or 112 x 112"
            )
        sphereface = self._network.side == (112, 96)
        self._template = SPHEREFACE_TEMPLATE if sphereface else ARCFACE_TEMPLATE
        self._scale = 128.0 if sphereface else 127.5
        shape = self._network.run(np.zeros((1, 3, *self._network.side), np.float32)).shape
        if len(shape) != 2 or shape[1] < LEAST_NUMBERS or shape[1] == _LANDMARKS:
            raise ExternalFileError(
                f"{path}: gives {list(shape)} of a face; an embedder gives [1, D], D of {LEAST_NUMBERS} or "
                f"more and not {_LANDMARKS}, which are 68 landmarks; name another file"
            )

    def embed(self, pictures: np.ndarray, landmarks5: np.ndarray | None = None) -> np.ndarray:
        """See `IdentityEmbedder`.

        Raises:
            AlignError: landmarks that coincide.
            ExternalFileError: the network gives no usable embeddings.
        """
        crops = _crops(pictures, landmarks5, self._template, self._network.side)
        embeddings = self._network.run((crops.transpose(0, 3, 1, 2) - np.float32(127.5)) / self._scale)
        return _unit(embeddings, self.name)


class ArcFace:
    """facexlib's ArcFace, IR-SE50, on the 112 x 112 crop of ArcFace, scaled to [-1, 1].

    It takes BGR: its training faces were decoded as BGR and saved as if they were RGB, and its validation
    faces are swapped to match (InsightFace_Pytorch, data_pipe.py).

    Raises:
        ExternalFileError: `path` is no state dict of that network.
    """

    name = ARCFACE[0].label

    def __init__(self, path: Path) -> None:
        self._network = arcface_network(path)

    def embed(self, pictures: np.ndarray, landmarks5: np.ndarray | None = None) -> np.ndarray:
        """See `IdentityEmbedder`. Landmarks that coincide raise AlignError."""
        crops = _crops(pictures, landmarks5, ARCFACE_TEMPLATE, (112, 112))[..., ::-1]
        inputs = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))) / 127.5 - 1
        with torch.inference_mode():
            return _unit(self._network(inputs).numpy(), self.name)


def choose_identity(domain: Domain, weights: WeightsParams, probe: Probe) -> IdentityEmbedder | Unavailable:
    """The embedder for faces of `domain` (params `data.source`), or why there is none.

    The file that `weights.identity` names; without one the probe for procedural faces, and for photographs
    what lies in `weights.root`: ArcFace, else MobileFaceNet.

    Raises:
        ParamsError, ExternalFileError: a file or folder is not what it should be.
    """
    if weights.identity:
        return OnnxIdentity(Path(weights.identity), Path(weights.identity).name)
    if domain == "procedural":
        return EmbeddedIdentity(probe)
    if found := find_external(weights.root, ARCFACE):
        return ArcFace(found[0])
    if found := find_external(weights.root, MOBILEFACENET):
        return OnnxIdentity(found[0], found[1].label)
    reason = why_missing(weights.root, (*ARCFACE, *MOBILEFACENET))
    return Unavailable(f"{reason}; the embedded probe knows procedural faces only")


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine [B] of embeddings [B, D] of length 1."""
    product: np.ndarray = (first * second).sum(axis=1)
    return product


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angle [B] between embeddings [B, D] of length 1, degrees in [0, 180].

    The arc cosine of their similarity, taken from their distance: near 0 the cosine has no digits left.
    """
    half = np.linalg.norm(first.astype(np.float64) - second.astype(np.float64), axis=1) / 2
    degrees: np.ndarray = np.degrees(2 * np.arcsin(np.clip(half, 0, 1)))
    return degrees


def probe_outputs(probe: Probe, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [B, 68, 2] (pixels) and embeddings [B, 64] of uint8 pictures [B, S, S, 3]."""
    faces = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    with torch.inference_mode():
        landmarks, embeddings = probe(faces)
    return landmarks.numpy(), embeddings.numpy()


def _crops(
    pictures: np.ndarray, landmarks5: np.ndarray | None, template: np.ndarray, side: tuple[int, int]
) -> np.ndarray:
    """float32 [B, height, width, 3], 0 to 255."""
    if landmarks5 is None:
        landmarks5 = np.broadcast_to(scaled_template(pictures.shape[1]), (len(pictures), 5, 2))
    pairs = zip(pictures, landmarks5, strict=True)
    return np.stack([five_point_crop(picture, points, template, side) for picture, points in pairs]).astype(
        np.float32
    )


def _unit(embeddings: np.ndarray, name: str) -> np.ndarray:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ExternalFileError(f"{name}: gives embeddings that are not finite or of length 0")
    unit: np.ndarray = embeddings / lengths
    return unit

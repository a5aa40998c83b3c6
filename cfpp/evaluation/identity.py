"""Identity embeddings: the embedded probe for procedural faces, MobileFaceNet for photographs."""

from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch

from cfpp.data.components import TEMPLATE_512
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.external import ExternalFile, find_external, why_missing
from cfpp.models.probe import Probe

Domain = Literal["procedural", "folder"]

MOBILEFACENET = (
    ExternalFile(
        "mobilefacenet_112x96.onnx",
        "128ec2e51e496334f1c0f7853896b77365471f027942fa29e5cc513d7becef3d",
        "MobileFaceNet, 128-d",
    ),
)
# Where MobileFaceNet expects them in its 112 x 96 (height x width) crop.
SPHEREFACE_TEMPLATE = np.array(
    [(30.29, 51.70), (65.53, 51.50), (48.03, 71.74), (33.55, 92.37), (62.73, 92.20)]
)


class IdentityEmbedder(Protocol):
    """Says who is in a picture; the cosine of two embeddings is their likeness."""

    name: str

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
    """MobileFaceNet on the five-point crop of SphereFace, 112 x 96 (height x width)."""

    name = MOBILEFACENET[0].label

    def __init__(self, path: Path) -> None:
        self._session = onnx_session(path)

    def embed(self, pictures: np.ndarray, landmarks5: np.ndarray | None = None) -> np.ndarray:
        """See `IdentityEmbedder`. Landmarks that do not span a plane raise ValueError."""
        side = pictures.shape[1]
        if landmarks5 is None:
            landmarks5 = np.broadcast_to(scaled_template(side), (len(pictures), 5, 2))
        crops = np.stack(
            [five_point_crop(picture, points) for picture, points in zip(pictures, landmarks5, strict=True)]
        )
        inputs = ((crops.astype(np.float32) - 127.5) / 128).transpose(0, 3, 1, 2)
        embeddings = self._session.run(None, {"image": np.ascontiguousarray(inputs)})[0]
        normalised: np.ndarray = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return normalised


def choose_identity(domain: Domain, weights_root: str, probe: Probe) -> IdentityEmbedder | Unavailable:
    """The embedder for faces of `domain` (params `data.source`), or why there is none."""
    if domain == "procedural":
        return EmbeddedIdentity(probe)
    found = find_external(weights_root, MOBILEFACENET)
    if found is None:
        return Unavailable(
            why_missing(weights_root, MOBILEFACENET) + "; the embedded probe knows procedural faces only"
        )
    return OnnxIdentity(found[0])


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine [B] of embeddings [B, D] of length 1."""
    product: np.ndarray = (first * second).sum(axis=1)
    return product


def scaled_template(side: int) -> np.ndarray:
    """The FFHQ template [5, 2] in pixels of a face of `side`, pixel centres at whole numbers."""
    return (TEMPLATE_512 + 0.5) * (side / 512) - 0.5


def five_point_crop(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """uint8 [112, 96, 3]: the similarity transform that takes `points` [5, 2] nearest to the template."""
    matrix = _similarity(points)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:  # shrink first, or fine detail folds into the crop
        height, width = picture.shape[:2]
        picture = cv2.resize(picture, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA)
        factor = np.array([picture.shape[1] / width, picture.shape[0] / height])
        matrix = _similarity((points + 0.5) * factor - 0.5)
    crop: np.ndarray = cv2.warpAffine(picture, matrix, (96, 112), flags=cv2.INTER_LINEAR)
    return crop


def _similarity(points: np.ndarray) -> np.ndarray:
    """[2, 3]: the similarity that takes `points` nearest to SphereFace's template, by least squares."""
    # Four unknowns (a, b, tx, ty): x' = a x - b y + tx, y' = b x + a y + ty.
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    system = np.concatenate([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)])
    target = np.concatenate([SPHEREFACE_TEMPLATE[:, 0], SPHEREFACE_TEMPLATE[:, 1]])
    solution, _, rank, _ = np.linalg.lstsq(system, target, rcond=None)
    if rank < 4:
        raise ValueError("the five landmarks coincide")
    a, b, tx, ty = solution
    return np.array([[a, -b, tx], [b, a, ty]])


def probe_outputs(probe: Probe, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [B, 68, 2] (pixels) and embeddings [B, 64] of uint8 pictures [B, S, S, 3]."""
    faces = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    with torch.inference_mode():
        landmarks, embeddings = probe(faces)
    return landmarks.numpy(), embeddings.numpy()


def onnx_session(path: Path):  # type: ignore[no-untyped-def]
    """An onnxruntime session on the CPU, one thread: a picture gives the same numbers on every machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

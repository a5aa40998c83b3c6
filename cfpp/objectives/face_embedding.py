"""Face embedders as frozen torch modules, through which a loss can reach the picture.

`cfpp.evaluation.identity` measures with the same networks, on crops made as their authors made them.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.config import ParamsError
from cfpp.data.align import scaled_template, similarity_transform
from cfpp.data.crops import ARCFACE_TEMPLATE, SPHEREFACE_TEMPLATE
from cfpp.models.catalogue import ARCFACE, MOBILEFACENET
from cfpp.models.external import ExternalFileError, find_external, load_state, why_missing


class FaceEmbedding(nn.Module):
    """Embeddings of aligned faces, differentiable; frozen and always in evaluation mode.

    Args:
        name: what reports call it.
        network: [B, 3, height, width] to [B, D].
        template: [5, 2], where the crop has eyes, nose and mouth corners, (x, y) pixels.
        side: height and width of the crop.
        scale: the network takes (x - 127.5) / scale for x in 0 to 255.
        bgr: it takes the channels in this order.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        template: np.ndarray,
        side: tuple[int, int],
        *,
        scale: float,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.side, self.scale, self.bgr = name, side, scale, bgr
        self.network = network.eval().requires_grad_(False)
        self._template = template

    def forward(self, faces: Tensor) -> Tensor:
        """[B, D] of length 1, float32, of aligned faces [B, 3, S, S] in [-1, 1], RGB."""
        with torch.autocast(faces.device.type, enabled=False):
            crops = self._crops(faces.float()) * (127.5 / self.scale)
            return F.normalize(self.network(crops.flip(1) if self.bgr else crops), dim=1)

    def train(self, mode: bool = True) -> FaceEmbedding:
        """Stays in evaluation mode."""
        return super().train(False)

    def _crops(self, faces: Tensor) -> Tensor:
        # From the crop's pixels to the face's; where that steps over more than two, the face is shrunk first.
        template = scaled_template(faces.shape[-1])
        step = float(np.linalg.norm(similarity_transform(self._template, template)[0, :2]))
        if step > 2:
            faces = F.interpolate(faces, size=round(2 * faces.shape[-1] / step), mode="area")
            template = scaled_template(faces.shape[-1])
        matrix = torch.from_numpy(similarity_transform(self._template, template)).to(faces)
        height, width = self.side
        rows, columns = torch.meshgrid(
            torch.arange(height, device=faces.device, dtype=faces.dtype),
            torch.arange(width, device=faces.device, dtype=faces.dtype),
            indexing="ij",
        )
        places = torch.stack([columns, rows, torch.ones_like(rows)], -1) @ matrix.T
        grid = places * (2 / (faces.shape[-1] - 1)) - 1
        return F.grid_sample(
            faces, grid.expand(len(faces), -1, -1, -1), padding_mode="zeros", align_corners=True
        )


def find_face_embedding(weights_root: str, path: str) -> FaceEmbedding:
    """The network that an identity loss follows.

    Args:
        weights_root: where ArcFace, else MobileFaceNet is looked for.
        path: of an ONNX face embedder in its place; "" for none.

    Raises:
        ParamsError: there is none.
        ExternalFileError: a file is not what it should be.
    """
    if path:
        return of_onnx(Path(path), Path(path).name)
    if found := find_external(weights_root, ARCFACE):
        return of_arcface(found[0])
    if found := find_external(weights_root, MOBILEFACENET):
        return of_onnx(found[0], found[1].label)
    missing = why_missing(weights_root, (*ARCFACE, *MOBILEFACENET))
    raise ParamsError(
        f"train_tgrn.identity_weight: above 0, but the loss {missing}; set it to 0 to go without"
    )


def face_embedding_name(weights_root: str, path: str) -> str:
    """Label or file name of what `find_face_embedding` would choose, without loading it; "none" for none."""
    if path:
        return Path(path).name
    found = find_external(weights_root, ARCFACE) or find_external(weights_root, MOBILEFACENET)
    return found[1].label if found else "none"


def of_arcface(path: Path) -> FaceEmbedding:
    """facexlib's ArcFace, IR-SE50; it takes BGR (see cfpp/evaluation/identity.py).

    Raises:
        ExternalFileError: no state dict of that network.
    """
    network = arcface_network(path)
    return FaceEmbedding(ARCFACE[0].label, network, ARCFACE_TEMPLATE, (112, 112), scale=127.5, bgr=True)


def arcface_network(path: Path) -> nn.Module:
    """facexlib's network, frozen, [B, 3, 112, 112] in [-1, 1], BGR, to [B, 512].

    Raises:
        ExternalFileError: `path` is no state dict of it; the first mismatches are named.
    """
    from facexlib.recognition.arcface_arch import Backbone

    with torch.device("meta"):  # without weights of its own: the file has all of them
        network: nn.Module = Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se").eval()
    load_frozen(network, load_state(path), path)
    return network


def of_onnx(path: Path, name: str) -> FaceEmbedding:
    """An ONNX embedder: 112 x 96 is SphereFace's crop, 112 x 112 that of ArcFace, as of InsightFace.

    Raises:
        ParamsError: there is no such file.
        ExternalFileError: not such a network, or with operations that have no counterpart in torch.
    """
    import onnx
    from onnx2torch import convert

    if not path.is_file():
        raise ParamsError(f"{path}: not found; train_tgrn.identity_network names an .onnx file")
    try:
        model = onnx.load(str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = convert(model)
    except Exception as error:  # their errors share no base but this
        raise ExternalFileError(f"{path}: cannot be made a torch module: {error}") from error
    shapes = [[d.dim_value for d in item.type.tensor_type.shape.dim] for item in model.graph.input]
    side = tuple(shapes[0][2:]) if shapes else ()
    if side not in ((112, 96), (112, 112)):
        raise ExternalFileError(
            f"{path}: takes {shapes}; a face embedder takes n x 3 x 112 x 96 or 112 x 112"
        )
    if side == (112, 96):
        return FaceEmbedding(name, network, SPHEREFACE_TEMPLATE, (112, 96), scale=128.0)
    return FaceEmbedding(name, network, ARCFACE_TEMPLATE, (112, 112), scale=127.5)


def load_frozen(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """The weights of a network made on the meta device; `path` is where they come from.

    Raises:
        ExternalFileError: keys or shapes do not match, the first of which are named.
    """
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ExternalFileError(f"{path}: another network: {' '.join(str(error).split())[:300]}") from error
    network.requires_grad_(False)

"""The restorer that users call: an aligned face in, the restored face out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from cfpp.data.pictures import Picture, to_pictures, to_tensor
from cfpp.errors import MendableError
from cfpp.models.dam import DAM, load_dam, warp
from cfpp.models.prior import Prior, load_prior
from cfpp.models.tgrn import TGRN, load_tgrn
from cfpp.models.weights import WeightsError, read_card

PARTS = ("prior", "dam", "tgrn")


class RestoreError(MendableError, ValueError):
    """Pictures that cannot be restored; the message says what was expected."""


@dataclass(frozen=True)
class Trace:
    """Every picture on the way, uint8 [B, S, S, 3] RGB, and the flow.

    Attributes:
        lq: I_LQ, the input at the model's size.
        id: I_F, identity-preserving restoration.
        gp: I_G, generative-prior restoration.
        warp: I_warp, I_G laid onto I_F.
        out: I_out.
        flow: phi, float32 [B, 2, S, S], pixels, (row, column).
    """

    lq: Picture
    id: Picture
    gp: Picture
    warp: Picture
    out: Picture
    flow: np.ndarray


@dataclass(frozen=True)
class Restorer:
    """Prior, DAM and TGRN as one, frozen, on one device.

    Args:
        prior: gives I_F and I_G.
        dam: gives the flow that lays I_G onto I_F.
        tgrn: gives I_out.
        size: side of the pictures that the three work on, pixels.
        texture: what TGRN takes its texture from: I_warp, or I_G as it is (trained without DAM).
        device: where the three are.
    """

    prior: Prior
    dam: DAM
    tgrn: TGRN
    size: int
    texture: Literal["warp", "gp"]
    device: torch.device

    @classmethod
    def load(cls, models: str | Path, device: str | torch.device = "cpu") -> "Restorer":
        """The restorer of a folder that holds prior/, dam/ and tgrn/.

        Raises:
            WeightsError: a model is missing, damaged, never trained or of another kind.
        """
        prior, dam, tgrn = (Path(models) / part for part in PARTS)
        return cls.load_parts(prior, dam, tgrn, device)

    @classmethod
    def load_parts(
        cls, prior: str | Path, dam: str | Path, tgrn: str | Path, device: str | torch.device = "cpu"
    ) -> "Restorer":
        """The restorer of three model folders; ``prior`` may be the official checkpoint (.pth).

        Raises:
            WeightsError: a model is missing, damaged, never trained or of another kind.
        """
        device = torch.device(device)
        config = read_card(tgrn).config
        alignment = config.get("alignment")
        if alignment not in ("dam", "none"):
            raise WeightsError(f"{tgrn}: its card gives no alignment (dam or none), found {alignment!r}")
        network = load_prior(prior).to(device)
        return cls(
            prior=network,
            dam=load_dam(dam).to(device),
            tgrn=load_tgrn(tgrn).to(device),
            size=network.image_size,
            texture="warp" if alignment == "dam" else "gp",
            device=device,
        )

    def restore(self, pictures: Picture, batch_size: int = 8) -> Picture:
        """Restore aligned faces of any resolution.

        Args:
            pictures: uint8 [B, H, H, 3] RGB; resized to the model's size first.
            batch_size: faces per forward pass.

        Returns:
            I_out, uint8 [B, size, size, 3] RGB.

        Raises:
            RestoreError: not square 8-bit RGB pictures.
        """
        done = [trace.out for trace in self._traces(pictures, batch_size)]
        return np.concatenate(done) if done else np.zeros((0, self.size, self.size, 3), np.uint8)

    def trace(self, pictures: Picture) -> Trace:
        """Restore one batch, uint8 [B, H, H, 3] with B of 1 or more, and keep every picture on the way.

        Raises:
            RestoreError: no pictures, or not square 8-bit RGB ones.
        """
        if len(pictures) == 0:
            raise RestoreError("no pictures to trace")
        return next(self._traces(pictures, len(pictures)))

    def _traces(self, pictures: Picture, batch_size: int) -> Iterator[Trace]:
        if batch_size < 1:
            raise RestoreError(f"batch size {batch_size}: must be 1 or more")
        lq = self._at_size(pictures)
        for start in range(0, len(lq), batch_size):
            yield self._forward(lq[start : start + batch_size])

    @torch.inference_mode()
    def _forward(self, lq: Picture) -> Trace:
        i_f, i_g = self.prior.restore_pair(to_tensor(lq).to(self.device))
        flow: Tensor = self.dam(i_g, i_f)
        i_warp = warp(i_g, flow)
        out = self.tgrn(i_f, i_warp if self.texture == "warp" else i_g)
        named = {"id": i_f, "gp": i_g, "warp": i_warp, "out": out}
        made = {name: to_pictures(image) for name, image in named.items()}
        return Trace(lq=lq, flow=flow.float().cpu().numpy(), **made)

    def _at_size(self, pictures: Picture) -> Picture:
        shape = pictures.shape
        if pictures.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise RestoreError(
                f"expected aligned faces, uint8 [B, H, H, 3] RGB; found {pictures.dtype} {list(shape)}"
            )
        if shape[1] == self.size or len(pictures) == 0:
            return pictures
        if shape[1] == 0:
            raise RestoreError("pictures without pixels")
        # up as the degradation does in training; down by averaging, which keeps fine texture from aliasing
        how = cv2.INTER_AREA if shape[1] > self.size else cv2.INTER_LINEAR
        side = (self.size, self.size)
        return np.stack([np.asarray(cv2.resize(p, side, interpolation=how), np.uint8) for p in pictures])

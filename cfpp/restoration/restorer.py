"""The restorer that users call: an aligned face in, the restored face out.

Where TGRN was trained on the pictures of another prior (prior.kind: folder), those are what goes in.

w trades texture for fidelity, as in CodeFormer: TGRN's residual counts (1 - w) times, so that w = 0, unless
said otherwise, is I_out as it was trained, and w = 1 is I_F.
"""

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
from cfpp.models.dam import DAM, load_dam, warp_picture
from cfpp.models.prior import Prior, load_prior
from cfpp.models.tgrn import TGRN, load_tgrn
from cfpp.models.weights import WeightsError, read_config

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
        prior: gives I_F and I_G; None where they come from elsewhere.
        dam: gives the flow that lays I_G onto I_F.
        tgrn: gives I_out.
        size: side of the pictures that the three work on, pixels.
        texture: what TGRN takes its texture from: I_warp, or I_G as it is (trained without DAM).
        device: where the three are.
    """

    prior: Prior | None
    dam: DAM
    tgrn: TGRN
    size: int
    texture: Literal["warp", "gp"]
    device: torch.device

    @property
    def parts(self) -> tuple[str, ...]:
        """The model folders that this restorer needs."""
        return PARTS if self.prior is not None else PARTS[1:]

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

        TGRN's card says whether it needs that prior at all.

        Raises:
            WeightsError: a model is missing, damaged, never trained or of another kind.
        """
        device = torch.device(device)
        config = read_config(tgrn, "alignment", "prior_kind", "size")
        network = None if config["prior_kind"] == "folder" else load_prior(prior).to(device)
        if network is not None and network.image_size != config["size"]:
            raise WeightsError(
                f"{prior}: for faces of {network.image_size} pixels; {tgrn} was trained at {config['size']}"
            )
        return cls(
            prior=network,
            dam=load_dam(dam).to(device),
            tgrn=load_tgrn(tgrn).to(device),
            size=int(config["size"]),
            texture="warp" if config["alignment"] == "dam" else "gp",
            device=device,
        )

    def restore(self, pictures: Picture, batch_size: int = 8, w: float = 0.0) -> Picture:
        """Restore aligned faces of any resolution.

        Args:
            pictures: uint8 [B, H, H, 3] RGB; resized to the model's size first.
            batch_size: faces per forward pass.
            w: 0 to 1; see the module.

        Returns:
            I_out, uint8 [B, size, size, 3] RGB.

        Raises:
            RestoreError: not square 8-bit RGB pictures, w out of range, or a restorer without a prior.
        """
        done = [trace.out for trace in self._traces(pictures, batch_size, w)]
        return np.concatenate(done) if done else np.zeros((0, self.size, self.size, 3), np.uint8)

    def fuse(self, i_f: Picture, i_g: Picture, batch_size: int = 8, w: float = 0.0) -> Picture:
        """I_out of faces that any prior has restored both ways.

        Args:
            i_f, i_g: uint8 [B, H, H, 3] RGB; resized to the model's size first.
            batch_size: faces per forward pass.
            w: 0 to 1; see the module.

        Returns:
            I_out, uint8 [B, size, size, 3] RGB.

        Raises:
            RestoreError: not square 8-bit RGB pictures, not equally many, or w out of range.
        """
        _check_w(w)
        if len(i_f) != len(i_g) or batch_size < 1:
            raise RestoreError(f"{len(i_f)} I_F, {len(i_g)} I_G, batch size {batch_size}: do not fit")
        pair = [self.at_size(pictures) for pictures in (i_f, i_g)]
        done = [np.zeros((0, self.size, self.size, 3), np.uint8)]
        for start in range(0, len(i_f), batch_size):
            own, other = (to_tensor(p[start : start + batch_size]).to(self.device) for p in pair)
            done.append(to_pictures(self._finish(own, other, w)[0]["out"]))
        return np.concatenate(done)

    def trace(self, pictures: Picture) -> Trace:
        """Restore one batch, uint8 [B, H, H, 3] with B of 1 or more, and keep every picture on the way.

        Raises:
            RestoreError: no pictures, or not square 8-bit RGB ones.
        """
        if len(pictures) == 0:
            raise RestoreError("no pictures to trace")
        return next(self._traces(pictures, len(pictures), 0.0))

    def _traces(self, pictures: Picture, batch_size: int, w: float) -> Iterator[Trace]:
        _check_w(w)
        if batch_size < 1:
            raise RestoreError(f"batch size {batch_size}: must be 1 or more")
        if self.prior is None:
            raise RestoreError(
                "this restorer knows another prior's pictures only (prior.kind: folder); give it I_F and I_G"
            )
        lq = self.at_size(pictures)
        for start in range(0, len(lq), batch_size):
            batch = lq[start : start + batch_size]
            with torch.inference_mode():
                i_f, i_g = self.prior.restore_pair(to_tensor(batch).to(self.device))
            images, flow = self._finish(i_f, i_g, w)
            made = {name: to_pictures(image) for name, image in images.items()}
            yield Trace(lq=batch, flow=flow.float().cpu().numpy(), **made)

    @torch.inference_mode()
    def _finish(self, i_f: Tensor, i_g: Tensor, w: float) -> tuple[dict[str, Tensor], Tensor]:
        flow: Tensor = self.dam(i_g, i_f)
        i_warp = warp_picture(i_g, flow)
        out = self.tgrn(i_f, i_warp if self.texture == "warp" else i_g)
        if w:
            out = torch.lerp(out, i_f, w)
        return {"id": i_f, "gp": i_g, "warp": i_warp, "out": out}, flow

    def at_size(self, pictures: Picture) -> Picture:
        """Aligned faces, uint8 [B, H, H, 3] RGB, at the model's size.

        Raises:
            RestoreError: not square 8-bit RGB pictures.
        """
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


def _check_w(w: float) -> None:
    if not 0 <= w <= 1:  # NaN is refused, too
        raise RestoreError(f"w {w}: must be 0 to 1")

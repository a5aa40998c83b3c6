"""What TGRN is trained for: faithful like I_F, textured like I_warp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.config import ParamsError
from cfpp.data.components import component_mask
from cfpp.models.discriminator import PatchDiscriminator
from cfpp.models.external import why_missing
from cfpp.models.prior import load_prior
from cfpp.models.probe import load_probe
from cfpp.models.tgrn import TGRN
from cfpp.objectives.adversarial import balanced_adversarial_loss
from cfpp.objectives.base import Batch, Objective, StepResult
from cfpp.objectives.codebook import contact_sheet, psnr
from cfpp.objectives.face_embedding import face_embedding_name, find_face_embedding
from cfpp.objectives.metric_learning import TextureEmbedding, cosine_triplet
from cfpp.objectives.perceptual import LPIPS_FILES, build_perceptual, find_lpips
from cfpp.storage import local_folder, place_of
from cfpp.training_params import TrainTgrnParams


@dataclass(frozen=True)
class TextureSpec:
    """Picklable description of TGRN's objective.

    Attributes:
        params: section train_tgrn.
        size: side of the faces, pixels.
        prior_path: the frozen prior, whose encoder is the metric's embedding unless the params name another.
        weights_root: section weights, key root.
        procedural: the faces are procedural ones, whose identity the probe embeds.
        prior_kind: where I_F and I_G come from, see section prior, key kind.
        feather: edge of the component mask, share of the side; used only where I_AP is made here
            (alignment: none).
    """

    params: TrainTgrnParams
    size: int
    prior_path: str
    weights_root: str
    procedural: bool
    prior_kind: Literal["codeformer", "folder"] = "codeformer"
    feather: float = 0.02

    @property
    def identity_name(self) -> str:
        """Which network the identity loss follows; "none" without the loss."""
        if self.params.identity_weight == 0:
            return "none"
        if self.procedural and not self.params.identity_network:
            return "probe"
        return face_embedding_name(self.weights_root, self.params.identity_network)

    kind = "tgrn"

    @property
    def columns(self) -> tuple[str, ...]:
        """What the losses in use read; without DAM, I_G stands in for I_warp and I_AP is made here."""
        aligned, metric = self.params.alignment == "dam", self.params.metric_weight > 0
        columns = ["hq", "id"]
        if not aligned or (metric and "gp" in self.params.negatives):
            columns.append("gp")
        if aligned:
            columns += ["warp", "ap"] if metric else ["warp"]
        return tuple(columns)

    @property
    def config(self) -> dict[str, Any]:
        """What the model's card must hold for `load_tgrn`, and what a restorer must feed it with."""
        return {
            "widths": list(self.params.widths),
            "res_blocks": self.params.res_blocks,
            "texture_attention": self.params.texture_attention,
            "spatial_attention": self.params.spatial_attention,
            "alignment": self.params.alignment,
            "prior_kind": self.prior_kind,
            "identity_loss": self.identity_name,
            "size": self.size,
        }

    def build(self) -> TextureObjective:
        """The objective.

        Raises:
            WeightsError: the prior is missing or does not fit (metric_weight above 0).
            ParamsError: the weights of the embedding or of the identity loss are not there.
        """
        return TextureObjective(self)


class TextureObjective(Objective):
    """L1, perceptual, identity, cosine triplet, and a balanced hinge loss after its warm-up.

    A loss whose weight is 0 is neither computed nor logged, and its networks are not loaded.
    """

    model: TGRN
    mask: Tensor
    weights: Tensor

    def __init__(self, spec: TextureSpec) -> None:
        super().__init__()
        self.spec, params = spec, spec.params
        self.params = params
        self.model = TGRN(
            params.widths, params.res_blocks, params.texture_attention, params.spatial_attention
        )
        # Before the frozen networks, whose making draws numbers too: every choice of losses starts alike.
        if params.adversarial_weight > 0:
            self.discriminator = PatchDiscriminator(params.discriminator_width, params.discriminator_layers)
        self.perceptual = build_perceptual(spec.weights_root)
        self.embedding = _embedding(spec) if params.metric_weight > 0 else None
        self.identity = _identity_network(spec) if params.identity_weight > 0 else None
        self.discriminator_start = params.discriminator_start
        mask = torch.from_numpy(component_mask(spec.size, spec.feather))
        self.register_buffer("mask", mask, persistent=False)
        weights = 1 + params.component_weight * mask
        self.register_buffer("weights", weights / weights.mean(), persistent=False)

    def train(self, mode: bool = True) -> TextureObjective:
        """The frozen networks stay in evaluation mode."""
        super().train(mode)
        if self.identity is not None:
            self.identity.eval()
        return self

    def step(self, batch: Batch, step: int) -> StepResult:
        """Losses at the 0-based ``step``; pictures are [B, 3, S, S] in [-1, 1]."""
        params, hq = self.params, batch["hq"]
        i_warp, i_ap = self._guides(batch)
        out = self.model(batch["id"], i_warp)
        logs = {"l1": ((out - hq).abs() * self.weights).mean()}
        reconstruction = params.l1_weight * logs["l1"]
        if params.perceptual_weight > 0:
            logs["perceptual"] = self.perceptual(out, hq).mean()
            reconstruction = reconstruction + params.perceptual_weight * logs["perceptual"]
        loss = reconstruction
        if self.identity is not None:
            logs["identity"] = self._identity_distance(out, hq)
            loss = loss + params.identity_weight * logs["identity"]
        if self.embedding is not None:
            logs |= self._metric(out, batch, i_ap)
            loss = loss + params.metric_weight * logs["triplet"]
        if self.discriminator is not None and step >= self.discriminator_start:
            adversarial, figures = balanced_adversarial_loss(
                self.discriminator, out, reconstruction, self.model.last.weight
            )
            loss = loss + params.adversarial_weight * adversarial
            logs |= figures
        logs = {"loss": loss, **logs}
        fake, real = (None, None) if self.discriminator is None else (out, hq)
        return StepResult(
            loss=loss, logs={name: value.detach() for name, value in logs.items()}, fake=fake, real=real
        )

    @torch.no_grad()
    def validate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Held-out figures of I_out (clamped), and of I_F and I_warp as what it must beat."""
        i_warp, i_ap = self._guides(batch)
        out, hq = model(batch["id"], i_warp).clamp(-1, 1), batch["hq"]
        figures = {"l1": F.l1_loss(out, hq)}
        for suffix, picture in (("", out), ("_id", batch["id"]), ("_warp", i_warp)):
            figures[f"psnr{suffix}"] = psnr(picture, hq)
            figures[f"perceptual{suffix}"] = self.perceptual(picture.float(), hq).mean()
        if self.identity is not None:
            figures["identity"] = self._identity_distance(out, hq)
        if self.embedding is not None:
            figures |= self._metric(out, batch, i_ap)
        return figures

    @torch.no_grad()
    def pictures(self, model: nn.Module, batch: Batch) -> Tensor:
        """Columns I_F, I_warp, I_AP, I_out, I_HQ."""
        i_warp, i_ap = self._guides(batch)
        return contact_sheet([batch["id"], i_warp, i_ap, model(batch["id"], i_warp), batch["hq"]])

    def _guides(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """I_warp (I_G where nothing is aligned) and I_AP."""
        i_warp: Tensor = batch["warp" if self.params.alignment == "dam" else "gp"]
        if "ap" in batch:
            return i_warp, batch["ap"]
        return i_warp, torch.lerp(i_warp, batch["id"], self.mask)

    def _metric(self, out: Tensor, batch: Batch, i_ap: Tensor) -> dict[str, Tensor]:
        assert self.embedding is not None
        references = [i_ap, *(batch[name] for name in self.params.negatives)]
        with torch.no_grad():
            positive, *negatives = self.embedding(torch.cat(references)).chunk(len(references))
        triplet, active = cosine_triplet(self.embedding(out), positive, negatives, self.params.metric_margin)
        return {"triplet": triplet, "triplet_active": active}

    def _identity_distance(self, out: Tensor, hq: Tensor) -> Tensor:
        """1 - cosine of the identity embeddings, mean over the batch, in [0, 2]."""
        assert self.identity is not None
        with torch.no_grad():
            wanted = self.identity(hq)
        return (1 - F.cosine_similarity(self.identity(out).float(), wanted.float(), dim=1)).mean()


def _embedding(spec: TextureSpec) -> TextureEmbedding:
    if spec.params.embedding == "prior":
        prior = load_prior(local_folder(place_of(spec.prior_path)))
        return TextureEmbedding.of_encoder(prior.encoder)
    backbone = spec.params.embedding
    lpips = find_lpips(spec.weights_root, backbone)
    if lpips is None:
        missing = why_missing(spec.weights_root, LPIPS_FILES[backbone])
        raise ParamsError(f"train_tgrn.embedding: {backbone}: {missing}, or set it to prior")
    return TextureEmbedding.of_lpips(lpips)


class _ProbeEmbedding(nn.Module):
    """The identity head of the probe, for procedural faces."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = load_probe()

    def forward(self, faces: Tensor) -> Tensor:
        embedding: Tensor = self.probe(faces)[1]
        return embedding


def _identity_network(spec: TextureSpec) -> nn.Module:
    if spec.procedural and not spec.params.identity_network:
        return _ProbeEmbedding()
    return find_face_embedding(spec.weights_root, spec.params.identity_network)

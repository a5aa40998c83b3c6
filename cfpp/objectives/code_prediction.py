"""Prior, stage 2: encoder and transformer learn to read the clean face's codes off the degraded face."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import load_stage_one, network_config
from cfpp.objectives.base import Batch, StepResult
from cfpp.objectives.codebook import CodedObjective, code_counts, contact_sheet, psnr
from cfpp.objectives.perceptual import build_perceptual
from cfpp.storage import local_folder, place_of
from cfpp.training_params import CodePredictionParams, NetworkParams


@dataclass(frozen=True)
class CodePredictionSpec:
    """What builds a `CodePredictionObjective`.

    Attributes:
        params: the section prior.code_prediction.
        network: geometry.
        image_size: side of the pictures, pixels.
        weights_root: folder of networks from elsewhere, "" for none.
        codebook: model folder of stage 1.
    """

    params: CodePredictionParams
    network: NetworkParams
    image_size: int
    weights_root: str
    codebook: str

    kind = "codeformer"

    @property
    def columns(self) -> tuple[str, ...]:
        """Clean faces, the same largely degraded, and the codes of the clean ones."""
        return ("hq", "lq", "codes")

    @property
    def config(self) -> dict[str, Any]:
        """What the card of the trained model must hold."""
        return network_config(self.network, self.image_size)

    def build(self) -> "CodePredictionObjective":
        """The objective, encoder, codebook and generator from stage 1.

        Raises:
            WeightsError: stage 1 does not fit or was never trained.
        """
        return CodePredictionObjective(self)


def code_losses(model: CodeFormer, codes: Tensor, latent: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """How far latent and logits of the degraded face are from the clean face's codes.

    Args:
        model: its (frozen) codebook is used.
        codes: of the clean faces, int64 [B, 256] (`cfpp.synthesis.codes` makes them, once per face).
        latent: encoder output on the degraded faces [B, C, 16, 16].
        logits: code logits [B, 256, codes].

    Returns:
        Scalars: feature (mean squared error), cross_entropy (nats), code_accuracy (0 to 1).
    """
    with torch.no_grad():
        target = model.quantize.look_up(codes, *latent.shape[2:])
    return {
        "feature": F.mse_loss(latent.float(), target),
        "cross_entropy": F.cross_entropy(logits.float().flatten(0, 1), codes.flatten()),
        "code_accuracy": (logits.detach().argmax(2) == codes).float().mean(),
    }


class CodePredictionObjective(CodedObjective):
    """Feature and cross-entropy losses at w = 0; codebook, generator and fuse blocks stay as they are."""

    model: CodeFormer

    def __init__(self, spec: CodePredictionSpec) -> None:
        super().__init__()
        self.params = spec.params
        stage_one = load_stage_one(local_folder(place_of(spec.codebook)), spec.network, spec.image_size)
        self.model = CodeFormer(spec.network, spec.image_size)
        for name in ("encoder", "quantize", "generator"):
            getattr(self.model, name).load_state_dict(getattr(stage_one, name).state_dict())
        for part in (self.model.quantize, self.model.generator, self.model.fuse_convs_dict):
            part.requires_grad_(False)
        self.perceptual = build_perceptual(spec.weights_root)

    def step(self, batch: Batch, step: int) -> StepResult:
        """Read the codes off ``lq`` [B, 3, S, S]."""
        latent = self.model.encoder(batch["lq"])
        logits = self.model.predict(latent)
        logs = code_losses(self.model, batch["codes"], latent, logits)
        loss = self.params.feature_weight * logs["feature"]
        loss = loss + self.params.cross_entropy_weight * logs["cross_entropy"]
        return StepResult(loss=loss, logs={name: value.detach() for name, value in logs.items()})

    def validate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Code losses and accuracy; PSNR (dB) and perceptual distance of the restoration at w = 0."""
        assert isinstance(model, CodeFormer)
        hq: Tensor = batch["hq"]
        out = model(batch["lq"], 0.0)
        figures = code_losses(model, batch["codes"], out.latent, out.logits)
        figures["psnr"] = psnr(out.picture, hq)
        figures["perceptual"] = self.perceptual(out.picture.float().clamp(-1, 1), hq).mean()
        return figures | {"codes": code_counts(out.logits.argmax(2), out.logits.shape[2])}

    def pictures(self, model: nn.Module, batch: Batch) -> Tensor:
        """Degraded face, restoration at w = 0, clean face."""
        return contact_sheet([batch["lq"], model(batch["lq"], 0.0).picture, batch["hq"]])

"""Prior, stage 3: the fuse blocks learn to bring the degraded face's own features in."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.discriminator import PatchDiscriminator
from cfpp.models.prior import load_stage_one, network_config, network_of
from cfpp.models.weights import WeightsError, load_weights
from cfpp.objectives.adversarial import balanced_adversarial_loss
from cfpp.objectives.base import Batch, StepResult
from cfpp.objectives.code_prediction import code_losses
from cfpp.objectives.codebook import CodedObjective, code_counts, contact_sheet, psnr
from cfpp.objectives.perceptual import build_perceptual
from cfpp.storage import local_folder, place_of
from cfpp.training_params import CodePredictionParams, FusionParams, NetworkParams

STRONG_W = 1.3


class Phase(NamedTuple):
    """What a step trains: the degradation of its batch, and the identity weight (0 = code losses only)."""

    degradation: Literal["small", "large"]
    w: float


@dataclass(frozen=True)
class FusionSpec:
    """What builds a `FusionObjective`.

    Attributes:
        params: the section prior.fusion.
        codes: the section prior.code_prediction, whose loss weights go on to hold.
        network: geometry.
        image_size: side of the pictures, pixels.
        weights_root: folder of networks from elsewhere, "" for none.
        codebook: model folder of stage 1.
        code_prediction: model folder of stage 2.
    """

    params: FusionParams
    codes: CodePredictionParams
    network: NetworkParams
    image_size: int
    weights_root: str
    codebook: str
    code_prediction: str

    kind = "codeformer"

    @property
    def columns(self) -> tuple[str, ...]:
        """Clean faces, the same degraded as `degradation_for` says, and the codes of the clean ones."""
        return ("hq", "lq", "codes")

    @property
    def config(self) -> dict[str, Any]:
        """What the card of the trained model must hold."""
        return network_config(self.network, self.image_size)

    def phase(self, step: int) -> Phase:
        """The curriculum at the 0-based ``step``: small w = 1; small w = 1.3; large codes only; mixed."""
        first, second, third = self.params.curriculum
        if step < first:
            return Phase("small", 1.0)
        if step < second:
            return Phase("small", STRONG_W)
        if step >= third and step % self.params.small_every == 0:
            return Phase("small", STRONG_W)
        return Phase("large", 0.0)

    def degradation_for(self, step: int) -> Literal["small", "large"]:
        """The degradation the loader must draw column ``lq`` with at the 0-based ``step``."""
        return self.phase(step).degradation

    def build(self) -> "FusionObjective":
        """The objective, its network from stage 2.

        Raises:
            WeightsError: stage 1 or 2 does not fit, was never trained, or 2 did not start from 1.
        """
        return FusionObjective(self)


class FusionObjective(CodedObjective):
    """Code losses always; L1, perceptual and balanced hinge loss where the phase fuses (w > 0).

    Image losses train the fuse blocks only: codes are looked up and the encoder's features detached.
    """

    model: CodeFormer

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.spec = spec
        stage_one = load_stage_one(local_folder(place_of(spec.codebook)), spec.network, spec.image_size)
        self.model = CodeFormer(spec.network, spec.image_size)
        card = load_weights(self.model, local_folder(place_of(spec.code_prediction)), "codeformer")
        if network_of(card.config, spec.code_prediction) != (spec.network, spec.image_size):
            raise WeightsError(f"{spec.code_prediction}: its card names another network; train stage 2 again")
        kept = self.model.state_dict()
        for name in ("quantize", "generator"):
            for key, value in getattr(stage_one, name).state_dict().items():
                if not kept[f"{name}.{key}"].equal(value):
                    raise WeightsError(
                        f"{spec.code_prediction}: its {name}.{key} is not that of {spec.codebook}; "
                        f"train stage 2 from it"
                    )
            getattr(self.model, name).requires_grad_(False)
        params = spec.params
        self.discriminator: nn.Module = PatchDiscriminator(
            params.discriminator_width, params.discriminator_layers
        )
        self.discriminator_start = params.discriminator_start
        self.perceptual = build_perceptual(spec.weights_root)

    @property
    def last_layer(self) -> Tensor:
        """Trained weight nearest to the picture; as the generator is frozen, in the finest fuse block."""
        side = max(self.spec.network.fuse)
        return self.model.get_parameter(f"fuse_convs_dict.{side}.shift.2.weight")

    def step(self, batch: Batch, step: int) -> StepResult:
        """One step of the phase that ``step`` falls in; ``hq`` and ``lq`` are [B, 3, S, S]."""
        hq: Tensor = batch["hq"]
        w = self.spec.phase(step).w
        model, params, codes = self.model, self.spec.params, self.spec.codes
        latent, encoded = model.encoder.encode(batch["lq"], self.spec.network.fuse if w > 0 else ())
        logits = model.predict(latent)
        logs = code_losses(model, batch["codes"], latent, logits)
        loss = codes.feature_weight * logs["feature"] + codes.cross_entropy_weight * logs["cross_entropy"]
        picture: Tensor | None = None
        if w > 0:
            features = model.code_features(logits, latent, use_adain=False)
            picture = model.decode(features, encoded, w).float()
            logs["l1"] = (picture - hq).abs().mean()
            logs["perceptual"] = self.perceptual(picture, hq).mean()
            reconstruction = logs["l1"] + params.perceptual_weight * logs["perceptual"]
            loss = loss + reconstruction
            if step >= self.discriminator_start:
                adversarial, figures = balanced_adversarial_loss(
                    self.discriminator, picture, reconstruction, self.last_layer
                )
                loss = loss + params.adversarial_weight * adversarial
                logs |= figures
        logs = {name: value.detach() for name, value in logs.items()}
        return StepResult(loss=loss, logs=logs, fake=picture, real=None if picture is None else hq)

    def validate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Code accuracy; PSNR (dB) and perceptual distance at both ends of w (id: w = 1, gp: w = 0)."""
        assert isinstance(model, CodeFormer)
        hq: Tensor = batch["hq"]
        latent = model.encoder(batch["lq"])
        logits = model.predict(latent)
        figures = code_losses(model, batch["codes"], latent, logits)
        for name, picture in zip(("id", "gp"), model.restore_pair(batch["lq"]), strict=True):
            figures[f"psnr_{name}"] = psnr(picture, hq)
            figures[f"perceptual_{name}"] = self.perceptual(picture.float(), hq).mean()
        return figures | {"codes": code_counts(logits.argmax(2), logits.shape[2])}

    def pictures(self, model: nn.Module, batch: Batch) -> Tensor:
        """Degraded face, I_F, I_G, clean face."""
        assert isinstance(model, CodeFormer)
        i_f, i_g = model.restore_pair(batch["lq"])
        return contact_sheet([batch["lq"], i_f, i_g, batch["hq"]])

"""Prior, stage 1: an autoencoder through a codebook of clean faces."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.discriminator import PatchDiscriminator
from cfpp.models.prior import network_config
from cfpp.objectives.adversarial import balanced_adversarial_loss
from cfpp.objectives.base import Batch, Objective, StepResult
from cfpp.objectives.perceptual import build_perceptual
from cfpp.training_params import CodebookParams, NetworkParams

SHOWN = 4


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the batch of the peak signal-to-noise ratio, dB, of pictures in [-1, 1] (clamped first)."""
    error = (a.float().clamp(-1, 1) - b.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return (10 * (4 / error.clamp_min(1e-10)).log10()).mean()


def code_counts(indices: Tensor, codes: int) -> Tensor:
    """How often each of ``codes`` occurs in ``indices``, int64 [codes]."""
    return torch.bincount(indices.flatten(), minlength=codes)


def code_statistics(counts: Tensor) -> dict[str, float]:
    """Health of a codebook, from how often each code occurred.

    Returns:
        code_usage, the share of codes in use (0 to 1); dead_codes, the number of the others; and
        code_perplexity (1 to the number of codes).
    """
    shares = counts.double() / counts.sum()
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    used = int((counts > 0).sum())
    return {
        "code_usage": used / len(counts),
        "dead_codes": float(len(counts) - used),
        "code_perplexity": float(entropy.exp()),
    }


class CodedObjective(Objective):
    """An objective that shows how its codebook is used over all the held-out faces looked at together."""

    def summarise(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Means, and `code_statistics` of all the batches' ``codes`` (`code_counts`) together."""
        counts = torch.stack([batch.pop("codes") for batch in batches]).sum(0)
        return super().summarise(batches) | code_statistics(counts)


def contact_sheet(columns: list[Tensor]) -> Tensor:
    """One picture [3, n * H, len(columns) * W] in [-1, 1]: a row per face (at most SHOWN), a column each."""
    rows = [torch.cat(list(row), dim=2) for row in zip(*(c[:SHOWN].float() for c in columns), strict=True)]
    return torch.cat(rows, dim=1).clamp(-1, 1)


@dataclass(frozen=True)
class CodebookSpec:
    """What builds a `CodebookObjective`.

    Attributes:
        params: the section prior.codebook.
        network: geometry.
        image_size: side of the pictures, pixels.
        weights_root: folder of networks from elsewhere, "" for none.
    """

    params: CodebookParams
    network: NetworkParams
    image_size: int
    weights_root: str

    kind = "vqautoencoder"

    @property
    def columns(self) -> tuple[str, ...]:
        """Clean faces only."""
        return ("hq",)

    @property
    def config(self) -> dict[str, Any]:
        """What the card of the trained model must hold."""
        return network_config(self.network, self.image_size)

    def build(self) -> "CodebookObjective":
        """The objective, freshly initialised."""
        return CodebookObjective(self)


class CodebookObjective(CodedObjective):
    """L1, perceptual, codebook and (from ``discriminator_start`` on) balanced hinge loss.

    Codes start at +-1/K, far inside the latents, so that a few would take all of them and short trainings
    would never recover. Therefore codes which a batch, over all workers, leaves unused are moved onto the
    first batch's latents, and, each with the chance ``revived_share``, onto later ones until the
    discriminator starts. At 0 none is ever moved, as in the reference, whose trainings are long.
    """

    model: VQAutoEncoder

    def __init__(self, spec: CodebookSpec) -> None:
        super().__init__()
        params = spec.params
        self.params = params
        self.model = VQAutoEncoder(spec.network, spec.image_size)
        self.discriminator: nn.Module = PatchDiscriminator(
            params.discriminator_width, params.discriminator_layers
        )
        self.discriminator_start = params.discriminator_start
        self.perceptual = build_perceptual(spec.weights_root)

    def step(self, batch: Batch, step: int) -> StepResult:
        """Reconstruct ``hq`` [B, 3, S, S]."""
        hq: Tensor = batch["hq"]
        latent = self.model.encoder(hq)
        if self.params.revived_share and (step == 0 or step < self.discriminator_start):
            self._revive(latent, 1.0 if step == 0 else self.params.revived_share)
        quantized = self.model.quantize(latent)
        picture = self.model.generator(quantized.features).float()
        l1 = (picture - hq).abs().mean()
        perceptual = self.perceptual(picture, hq).mean()
        playing = step >= self.discriminator_start
        weight = self.params.late_perceptual_weight if playing else self.params.perceptual_weight
        reconstruction = l1 + weight * perceptual
        loss = reconstruction + quantized.loss
        logs = {"l1": l1, "perceptual": perceptual, "codebook": quantized.loss}
        logs["code_perplexity"] = quantized.perplexity
        if playing:
            adversarial, figures = balanced_adversarial_loss(
                self.discriminator, picture, reconstruction, self.model.generator.last_layer
            )
            loss = loss + self.params.adversarial_weight * adversarial
            logs |= figures
        logs = {name: value.detach() for name, value in logs.items()}
        return StepResult(loss=loss, logs=logs, fake=picture, real=hq)

    def _revive(self, latent: Tensor, share: float) -> None:
        quantize, shared = self.model.quantize, dist.is_available() and dist.is_initialized()
        unused = quantize.unused(latent)
        if shared:  # unused by the faces of every worker
            everywhere = unused.int()
            dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
            unused = everywhere.bool()
        quantize.revive(latent, unused & (torch.rand(len(unused), device=unused.device) < share))
        if shared:  # each moved them onto its own faces
            dist.broadcast(quantize.embedding.weight.detach(), src=0)

    def validate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """PSNR (dB), perceptual distance and use of the codebook on held-out faces."""
        hq: Tensor = batch["hq"]
        out = model(hq)
        codes = self.model.quantize.embedding.num_embeddings
        figures = {
            "psnr": psnr(out.picture, hq),
            "perceptual": self.perceptual(out.picture.float().clamp(-1, 1), hq).mean(),
        }
        return figures | {"codes": code_counts(out.indices, codes)}

    def pictures(self, model: nn.Module, batch: Batch) -> Tensor:
        """Clean face, reconstruction."""
        return contact_sheet([batch["hq"], model(batch["hq"]).picture])

"""What DAM is trained for: local normalised cross-correlation of I_warp with I_F, and a smooth flow
that folds nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpp.data.components import component_mask
from cfpp.models.dam import DAM, folded_share, jacobian_determinant, warp
from cfpp.objectives.base import Batch, Objective, StepResult
from cfpp.objectives.codebook import contact_sheet
from cfpp.training_params import TrainDamParams

_BT601 = (0.299, 0.587, 0.114)
_EPSILON = 1e-5
_LEAST_AREA = 0.1  # of a warped pixel; below it, one is about to fold
_FEATHER = 0.02  # of the components' edge, share of the side


def luminance(image: Tensor) -> Tensor:
    """BT.601 luma [B, 1, H, W] in [0, 1] of an RGB picture [B, 3, H, W] in [-1, 1]."""
    weights = torch.tensor(_BT601, device=image.device, dtype=image.dtype).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True) * 0.5 + 0.5


def lncc_loss(fixed: Tensor, moving: Tensor, window: int, weights: Tensor | None = None) -> Tensor:
    """Minus the (weighted) mean local normalised cross-correlation, a scalar in about [-1, 0]; -1 is perfect.

    Per pixel cross^2 / (variance * variance + 1e-5), all three as sums (not means) over a square window,
    zeros outside the picture (VoxelMorph; numbers: method.md, section 3).

    Args:
        fixed: [B, 1, H, W] in [0, 1].
        moving: the same shape and range; carries the gradient.
        window: side in pixels, odd.
        weights: [H, W], 0 or more, how much each pixel counts; None = all the same.
    """
    # Sums of squares minus squares of sums cancel, which bfloat16 does not survive.
    with torch.autocast(fixed.device.type, enabled=False):
        i, j = (x if x.dtype == torch.float64 else x.float() for x in (fixed, moving))
        planes = torch.cat([i, j, i * i, j * j, i * j], 1)
        sum_i, sum_j, sum_ii, sum_jj, sum_ij = _box_sum(planes, window).split(i.shape[1], 1)
        area = window * window
        cross = sum_ij - sum_i * sum_j / area
        variance_i = sum_ii - sum_i * sum_i / area
        variance_j = sum_jj - sum_j * sum_j / area
        correlation: Tensor = cross * cross / (variance_i * variance_j + _EPSILON)
        if weights is not None:
            correlation = correlation * (weights / weights.mean())
        return -correlation.mean()


def smoothness_loss(flow: Tensor) -> Tensor:
    """Mean squared forward difference of the flow [B, 2, H, W] in pixels, averaged over both directions."""
    by_row = flow[:, :, 1:, :] - flow[:, :, :-1, :]
    by_column = flow[:, :, :, 1:] - flow[:, :, :, :-1]
    return 0.5 * (by_row.square().mean() + by_column.square().mean())


def folding_loss(flow: Tensor) -> Tensor:
    """Mean over the pixels of how far the Jacobian determinant of the flow [B, 2, H, W] is below 0.1.

    Smoothness holds back every displacement; this one only those that squeeze a pixel to a tenth of its area
    or turn it over, so that the flow may be free elsewhere (after Mok and Chung 2020, who penalise below 0).
    """
    return F.relu(_LEAST_AREA - jacobian_determinant(flow)).mean()


@dataclass(frozen=True)
class AlignmentSpec:
    """Picklable description of DAM's objective.

    Attributes:
        params: section train_dam.
        size: side of the faces, pixels.
    """

    params: TrainDamParams
    size: int

    kind = "dam"

    @property
    def columns(self) -> tuple[str, ...]:
        """The two restorations."""
        return ("id", "gp")

    @property
    def config(self) -> dict[str, Any]:
        """What the model's card must hold for `load_dam`."""
        return {"widths": list(self.params.widths), "integration_steps": self.params.integration_steps}

    def build(self) -> AlignmentObjective:
        """The objective, its flow zero everywhere."""
        return AlignmentObjective(self.params, self.size)


class AlignmentObjective(Objective):
    """Self-supervised: no flow is known, the pair (I_G, I_F) is its own supervision."""

    weights: Tensor

    def __init__(self, params: TrainDamParams, size: int) -> None:
        super().__init__()
        self.params = params
        weights = 1 + params.component_weight * torch.from_numpy(component_mask(size, _FEATHER))
        self.register_buffer("weights", weights, persistent=False)
        self.model: nn.Module = DAM(params.widths, params.integration_steps)

    def step(self, batch: Batch, step: int) -> StepResult:
        loss, logs, _, _ = self._figures(self.model, batch)
        return StepResult(loss=loss, logs=logs)

    @torch.no_grad()
    def validate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The step's figures on held-out faces, and `lncc_unwarped`, which a useful DAM must exceed."""
        _, logs, _, _ = self._figures(model, batch)
        fixed, moving = luminance(batch["id"]), luminance(batch["gp"])
        still = -lncc_loss(fixed, moving, self.params.lncc_window, self.weights)
        return {**logs, "lncc_unwarped": still}

    @torch.no_grad()
    def pictures(self, model: nn.Module, batch: Batch) -> Tensor:
        """Columns I_G, I_warp, I_F and the flow's length (white = 5 % of the side)."""
        _, _, warped, flow = self._figures(model, batch)
        length = flow.norm(dim=1, keepdim=True) / (0.05 * flow.shape[-1])
        shown = (length.clamp(0, 1) * 2 - 1).expand_as(warped)
        return contact_sheet([batch["gp"], warped, batch["id"], shown])

    def _figures(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        i_g, i_f = batch["gp"], batch["id"]
        flow = model(i_g, i_f)
        warped = warp(i_g, flow)
        fixed, moving = luminance(i_f.float()), luminance(warped)
        similarity = lncc_loss(fixed, moving, self.params.lncc_window, self.weights)
        smoothness = smoothness_loss(flow)
        folding = folding_loss(flow)
        loss = similarity + self.params.smoothness_weight * smoothness + self.params.folding_weight * folding
        logs = {
            "loss": loss.detach(),
            "lncc": -similarity.detach(),
            "smoothness": smoothness.detach(),
            "folding": folding.detach(),
            "folded_share": folded_share(flow.detach()).mean(),
            "flow_px": flow.detach().norm(dim=1).mean(),
        }
        return loss, logs, warped, flow


def _box_sum(planes: Tensor, window: int) -> Tensor:
    """Sum over the window about each pixel, zeros outside, separably: rows, then columns."""
    half, channels = window // 2, planes.shape[1]
    ones = torch.ones(channels, 1, window, 1, device=planes.device, dtype=planes.dtype)
    rows = F.conv2d(planes, ones, padding=(half, 0), groups=channels)
    return F.conv2d(rows, ones.transpose(2, 3), padding=(0, half), groups=channels)

"""What a training objective is: the one interface between the losses and the training engine.

An objective owns the network which is trained, the frozen networks its losses need, and optionally a
discriminator. It knows nothing of optimisers, workers, checkpoints or Ray; the engine knows nothing of
losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class StepResult:
    """What one generator step gives.

    Attributes:
        loss: scalar to minimise, attached to the graph of the trained model.
        logs: detached scalars to plot; they stay on the device until the engine's window closes.
        fake: produced pictures [B, 3, H, W] for the discriminator (None: no discriminator step).
        real: the pictures [B, 3, H, W] the discriminator is to tell them from.
    """

    loss: Tensor
    logs: dict[str, Tensor]
    fake: Tensor | None = None
    real: Tensor | None = None


class Objective(nn.Module, ABC):
    """A network and the losses it is trained by.

    Attributes:
        model: what is trained, averaged (EMA), validated and exported; the parameters which are trained are
            those of ``model`` with ``requires_grad``.
        discriminator: trained by the hinge loss on (real, fake) from ``discriminator_start`` on, or None.
        discriminator_start: the first step (0-based) at which the discriminator is trained and used.

    Frozen networks are submodules whose parameters do not require gradients; the engine keeps them in eval
    mode. Checkpoints hold ``model`` and ``discriminator`` only, so everything else must follow from the spec
    (where one stage starts from another's weights, the spec names their folder).
    """

    model: nn.Module
    discriminator: nn.Module | None
    discriminator_start: int

    def __init__(self) -> None:
        super().__init__()
        self.discriminator = None  # not a class attribute, which would hide a registered submodule
        self.discriminator_start = 0

    @abstractmethod
    def step(self, batch: Batch, step: int) -> StepResult:
        """The generator's losses on one batch at the 0-based ``step``."""

    @abstractmethod
    def validate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Held-out figures of ``model``, which is the EMA copy: scalars, means over the batch.

        What only makes sense over several batches may travel as tensors of any shape, for `summarise`.
        """

    def summarise(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Figures of all held-out batches looked at, from what `validate` gave: their means."""
        return {name: float(torch.stack([b[name].float() for b in batches]).mean()) for name in batches[0]}

    def pictures(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """A picture [3, H, W] in [-1, 1] to look at (inputs beside outputs), or None."""
        return None


class ObjectiveSpec(Protocol):
    """Picklable frozen description of an objective; the objective is built inside the worker."""

    @property
    def kind(self) -> str:
        """What the trained model is, for its card."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """What the card of the trained model must hold to rebuild the network."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The sample columns (hq, lq, id, gp, warp, ap, mask, codes) a batch needs."""
        ...

    def build(self) -> Objective:
        """The objective with freshly initialised or loaded networks."""
        ...

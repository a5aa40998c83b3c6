"""Exponential moving average of a network's weights: what is validated and exported."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Keeps ``d * average + (1 - d) * weight`` of every trained parameter.

    ``d`` rises from 0.1 to ``decay`` as (1 + step) / (10 + step), so that a training shorter than the
    average's memory is not mostly its initialisation (as TensorFlow's ExponentialMovingAverage does).
    Parameters which are not trained, and buffers, are copied as they are.

    Attributes:
        module: the average, a network of its own, in eval mode, without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        averages = dict(self.module.named_parameters())
        pairs = [(averages[name], weight) for name, weight in model.named_parameters()]
        pairs = [(average, weight) for average, weight in pairs if weight.requires_grad]
        self._averages: list[Tensor] = [average for average, _ in pairs]
        self._weights: list[Tensor] = [weight for _, weight in pairs]
        self._copies = list(zip(self.module.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the optimiser's 0-based ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        for average, buffer in self._copies:
            average.copy_(buffer)

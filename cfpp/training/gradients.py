"""Gradients and weights across workers, by plain collectives on one flattened tensor.

Unlike DistributedDataParallel nothing is registered per parameter: a parameter that some or all workers did
not use at a step, as happens at every boundary of a curriculum, needs no special case.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def average_gradients(parameters: Sequence[nn.Parameter], world: int) -> None:
    """Replace every gradient by its mean over the workers.

    A worker without a gradient counts as zeros. Where no worker has one it stays None, so that the optimiser
    skips the parameter exactly as it would in a run of one worker.
    """
    if world == 1 or not parameters:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
    flat = torch.cat([*parts, present])
    dist.all_reduce(flat)
    *means, counts = (flat / world).split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, mean, used in zip(parameters, means, (counts > 0).tolist(), strict=True):
        parameter.grad = mean.view_as(parameter) if used else None


def mean_over_workers(figures: Tensor, world: int) -> Tensor:
    """The mean over the workers of a tensor of equal shape on each; non-finite anywhere stays non-finite."""
    if world > 1:
        dist.all_reduce(figures)
        figures /= world
    return figures


def broadcast(tensors: Iterable[Tensor], world: int) -> None:
    """Give every worker rank 0's values."""
    if world > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

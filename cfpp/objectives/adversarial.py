"""Hinge losses of generator and discriminator, and the weight that balances them with reconstruction."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Scalar hinge loss of discriminator logits (any shape): real above 1, fake below -1."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Scalar: minus the mean logit the discriminator gives to what was made."""
    return -fake.float().mean()


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, maximum: float = 1.0
) -> Tensor:
    """Weight at which the adversarial gradient is as long as the reconstruction gradient (VQGAN).

    Args:
        reconstruction: scalar loss, attached.
        adversarial: scalar loss, attached.
        last_layer: trained weight nearest to the picture, at which both gradients are compared.
        maximum: upper bound.

    Returns:
        Detached scalar in [0, maximum]. Both graphs are kept.
    """
    (ours,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio: Tensor = ours.norm() / (theirs.norm() + 1e-4)
    return ratio.clamp(0.0, maximum).detach()


@contextmanager
def held_fixed(module: nn.Module) -> Iterator[None]:
    """Graphs built inside pass gradients through ``module`` but not into its parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def balanced_adversarial_loss(
    discriminator: nn.Module, fake: Tensor, reconstruction: Tensor, last_layer: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Generator loss times its adaptive weight, leaving the discriminator's gradients alone.

    Args:
        discriminator: [B, 3, H, W] -> logits.
        fake: produced pictures, attached.
        reconstruction: scalar reconstruction loss, attached.
        last_layer: see `adaptive_weight`.

    Returns:
        The weighted scalar loss and the figures to log.
    """
    with held_fixed(discriminator):
        adversarial = generator_loss(discriminator(fake))
    weight = adaptive_weight(reconstruction, adversarial, last_layer)
    return weight * adversarial, {"adversarial": adversarial.detach(), "adaptive_weight": weight}

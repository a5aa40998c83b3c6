"""Hinge losses and the weight that balances them."""

import pytest
import torch
from torch import nn

from cfpp.models.discriminator import PatchDiscriminator
from cfpp.objectives.adversarial import (
    adaptive_weight,
    balanced_adversarial_loss,
    generator_loss,
    hinge_discriminator_loss,
)

pytestmark = pytest.mark.usefixtures("seeded")


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.5 + 1.0))
    assert generator_loss(fake).item() == pytest.approx(1.0)


def test_adaptive_weight_is_the_ratio_of_gradients() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    small, large = (0.3 * weight).sum(), (3.0 * weight).sum()
    assert adaptive_weight(small, large, weight).item() == pytest.approx(0.1, rel=1e-3)
    assert adaptive_weight(large, small, weight).item() == 1.0
    assert adaptive_weight(large, small, weight, maximum=4.0).item() == 4.0
    assert not adaptive_weight(small, large, weight).requires_grad


def test_adversarial_loss_leaves_the_discriminator_alone() -> None:
    discriminator = PatchDiscriminator(8, 2)
    weight = nn.Parameter(torch.tensor(0.5))
    fake = weight * torch.rand(1, 3, 32, 32)
    loss, figures = balanced_adversarial_loss(discriminator, fake, (fake - 1).abs().mean(), weight)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad != 0
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    assert set(figures) == {"adversarial", "adaptive_weight"}

"""Smallest params of the prior's three training stages, and what their tests do with an objective."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cfpp.models.weights import Card, save_model
from cfpp.objectives.base import Objective
from cfpp.objectives.code_prediction import CodePredictionSpec
from cfpp.objectives.codebook import CodebookSpec
from cfpp.training_params import (
    CodebookParams,
    CodePredictionParams,
    FusionParams,
    NetworkParams,
    TrainParams,
)

SIZE = 32
NETWORK = NetworkParams(
    width=32,
    multipliers=(1, 1),
    res_blocks=1,
    codebook_size=16,
    embed_dim=16,
    transformer_dim=16,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)
TRAIN = TrainParams(
    steps=10,
    seed=0,
    batch_size=2,
    accumulate=1,
    learning_rate=1e-3,
    final_learning_rate=1e-3,
    milestones=(),
    betas=(0.9, 0.99),
    ema_decay=0.9,
    precision="fp32",
    channels_last=False,
    workers=1,
    use_gpu=False,
    threads=1,
    loader_workers=0,
    log_every=1,
    validate_every=1,
    checkpoint_every=1,
    keep=1,
    max_failures=0,
)
CODEBOOK = CodebookParams(
    checkpoint="",
    perceptual_weight=1.0,
    late_perceptual_weight=1.0,
    revived_share=0.01,
    adversarial_weight=0.8,
    discriminator_start=5,
    discriminator_width=8,
    discriminator_layers=2,
    train=TRAIN,
)
PREDICTION = CodePredictionParams(feature_weight=1.0, cross_entropy_weight=0.5, train=TRAIN)
FUSION = FusionParams(
    perceptual_weight=1.0,
    adversarial_weight=0.1,
    discriminator_start=2,
    discriminator_width=8,
    discriminator_layers=2,
    curriculum=(3, 6, 9),
    small_every=5,
    train=TRAIN,
)


def save(folder: Path, spec: CodebookSpec | CodePredictionSpec, model: nn.Module, steps: int = 1) -> str:
    save_model(folder, model, Card(kind=spec.kind, config=spec.config, steps=steps))
    return str(folder)


def reached(objective: Objective, batch: dict[str, Tensor], step: int) -> set[str]:
    """Children of the model into which one step sends gradients that are not zero."""
    objective.zero_grad(set_to_none=True)
    objective.step(batch, step).loss.backward()
    moved = {name for name, p in objective.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert not [p for p in objective.parameters() if p.grad is not None and not p.requires_grad]
    return {name.partition(".")[0] for name in moved}


def train(objective: Objective, batch: dict[str, Tensor], steps: range, rate: float = 1e-3) -> None:
    trained = [p for p in objective.model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, rate)
    for step in steps:
        result = objective.step(batch, step)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()

"""The sections of params.yaml that describe a network and its training."""

from dataclasses import dataclass
from typing import Literal

from cfpp.schema import fraction, not_negative, positive, require

LATENT_SIDE = 16  # side of CodeFormer's latent, whatever the picture's


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """One training run of the engine, whatever it trains."""

    steps: int
    seed: int
    batch_size: int
    accumulate: int
    learning_rate: float
    final_learning_rate: float
    milestones: tuple[int, ...]
    betas: tuple[float, float]
    ema_decay: float
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    workers: int
    use_gpu: bool
    threads: int
    loader_workers: int
    log_every: int
    validate_every: int
    checkpoint_every: int
    keep: int
    max_failures: int

    def __post_init__(self) -> None:
        positive(self, "steps", "batch_size", "accumulate", "learning_rate", "final_learning_rate")
        positive(self, "workers", "threads", "log_every", "validate_every", "checkpoint_every", "keep")
        not_negative(self, "seed", "loader_workers", "max_failures")
        fraction(self, "ema_decay")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", "be 0 or more, below 1", self.betas)
        require(
            self.batch_size % (self.workers * self.accumulate) == 0,
            "batch_size",
            "be a multiple of workers x accumulate",
            self.batch_size,
        )


@dataclass(frozen=True, kw_only=True)
class NetworkParams:
    """Geometry of CodeFormer. The official network: 64, (1, 2, 2, 4, 4, 8), 2, 1024, 256, 512, 8, 9."""

    width: int
    multipliers: tuple[int, ...]
    res_blocks: int
    codebook_size: int
    embed_dim: int
    transformer_dim: int
    transformer_heads: int
    transformer_layers: int
    fuse: tuple[int, ...]

    def __post_init__(self) -> None:
        positive(self, "width", "multipliers", "res_blocks", "codebook_size", "embed_dim")
        positive(self, "transformer_dim", "transformer_heads", "transformer_layers")
        require(self.width % 32 == 0, "width", "be a multiple of 32", self.width)
        require(
            self.transformer_dim % self.transformer_heads == 0,
            "transformer_dim",
            "be a multiple of transformer_heads",
            self.transformer_dim,
        )
        sides = [LATENT_SIDE << level for level in range(len(self.multipliers))]
        require(set(self.fuse) <= set(sides), "fuse", f"name sides among {sides}", self.fuse)


@dataclass(frozen=True, kw_only=True)
class CodebookParams:
    checkpoint: str
    perceptual_weight: float
    late_perceptual_weight: float
    revived_share: float
    adversarial_weight: float
    discriminator_start: int
    discriminator_width: int
    discriminator_layers: int
    train: TrainParams

    def __post_init__(self) -> None:
        fraction(self, "revived_share")
        not_negative(self, "perceptual_weight", "late_perceptual_weight")
        not_negative(self, "adversarial_weight", "discriminator_start")
        positive(self, "discriminator_width", "discriminator_layers")


@dataclass(frozen=True, kw_only=True)
class CodePredictionParams:
    feature_weight: float
    cross_entropy_weight: float
    train: TrainParams

    def __post_init__(self) -> None:
        not_negative(self, "feature_weight", "cross_entropy_weight")


@dataclass(frozen=True, kw_only=True)
class FusionParams:
    perceptual_weight: float
    adversarial_weight: float
    discriminator_start: int
    discriminator_width: int
    discriminator_layers: int
    curriculum: tuple[int, int, int]
    small_every: int
    train: TrainParams

    def __post_init__(self) -> None:
        not_negative(self, "perceptual_weight", "adversarial_weight", "discriminator_start")
        positive(self, "discriminator_width", "discriminator_layers", "small_every")
        ascending = tuple(sorted(self.curriculum)) == self.curriculum and self.curriculum[0] >= 0
        require(ascending, "curriculum", "be steps in ascending order", self.curriculum)


@dataclass(frozen=True, kw_only=True)
class TrainDamParams:
    widths: tuple[int, ...]
    integration_steps: int
    lncc_window: int
    component_weight: float
    smoothness_weight: float
    folding_weight: float
    train: TrainParams

    def __post_init__(self) -> None:
        positive(self, "widths", "lncc_window")
        not_negative(self, "integration_steps", "component_weight", "smoothness_weight", "folding_weight")
        require(len(self.widths) >= 2, "widths", "name two levels or more", self.widths)
        require(self.lncc_window % 2 == 1, "lncc_window", "be odd", self.lncc_window)


@dataclass(frozen=True, kw_only=True)
class TrainTgrnParams:
    alignment: Literal["dam", "none"]
    texture_attention: bool
    spatial_attention: bool
    widths: tuple[int, ...]
    res_blocks: int
    l1_weight: float
    component_weight: float
    perceptual_weight: float
    identity_weight: float
    identity_network: str
    metric_weight: float
    metric_margin: float
    negatives: tuple[Literal["id", "gp"], ...]
    embedding: Literal["prior", "squeeze", "vgg"]
    adversarial_weight: float
    discriminator_start: int
    discriminator_width: int
    discriminator_layers: int
    train: TrainParams

    def __post_init__(self) -> None:
        positive(self, "widths", "res_blocks", "discriminator_width", "discriminator_layers", "metric_margin")
        not_negative(self, "l1_weight", "perceptual_weight", "identity_weight", "metric_weight")
        not_negative(self, "component_weight", "adversarial_weight", "discriminator_start")
        require(bool(self.negatives), "negatives", "name one or more (off: metric_weight 0)", self.negatives)

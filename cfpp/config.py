"""params.yaml as frozen, typed sections.

Nothing else in the project reads params.yaml. An unknown, missing or ill-typed key is a
`ParamsError` that names it, so a typo never runs silently with a default.
"""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class ParamsError(ValueError):
    """A key of params.yaml is unknown, missing, ill-typed or out of range."""


@dataclass(frozen=True, kw_only=True)
class RunParams:
    seed: int
    size: int

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "run.seed", "be 0 or more", self.seed)
        _require(self.size in (64, 128, 256, 512), "run.size", "be 64, 128, 256 or 512", self.size)


@dataclass(frozen=True, kw_only=True)
class DataParams:
    source: Literal["procedural", "folder"]
    folder: str
    identity_pattern: str
    identities: int
    shots: int
    val_fraction: float
    test_fraction: float
    shard_size: int
    min_side: int
    max_pixels: int
    max_quarantine_ratio: float
    workers: int

    def __post_init__(self) -> None:
        _positive("data", self, "identities", "shots", "shard_size", "min_side", "max_pixels", "workers")
        _fraction("data", self, "val_fraction", "test_fraction", "max_quarantine_ratio")
        _require(
            self.val_fraction + self.test_fraction < 1,
            "data.val_fraction + data.test_fraction",
            "be below 1",
            self.val_fraction + self.test_fraction,
        )
        _require(self.source != "folder" or bool(self.folder), "data.folder", "name a folder", self.folder)


@dataclass(frozen=True, kw_only=True)
class DegradationRange:
    """Uniform ranges, in pixels and factors of a 512 x 512 face (method.md, section 2)."""

    sigma: tuple[float, float]
    downsample: tuple[float, float]
    noise: tuple[float, float]
    jpeg: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("sigma", "downsample", "noise", "jpeg"):
            low, high = getattr(self, name)
            _require(0 <= low <= high, f"degradation.*.{name}", "be [low, high], low >= 0", (low, high))
        _require(self.sigma[0] > 0, "degradation.*.sigma", "be above 0", self.sigma)
        _require(self.downsample[0] >= 1, "degradation.*.downsample", "be 1 or more", self.downsample)
        _require(self.jpeg[0] >= 1 and self.jpeg[1] <= 100, "degradation.*.jpeg", "be in 1..100", self.jpeg)


@dataclass(frozen=True, kw_only=True)
class DegradationParams:
    kernel_size: int
    large: DegradationRange
    small: DegradationRange

    def __post_init__(self) -> None:
        _require(self.kernel_size % 2 == 1, "degradation.kernel_size", "be odd", self.kernel_size)


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """One training run of the engine, whatever it trains."""

    steps: int
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
        names = ("steps", "batch_size", "accumulate", "learning_rate", "final_learning_rate", "workers")
        _positive("*.train", self, *names)
        _positive("*.train", self, "threads", "log_every", "validate_every", "checkpoint_every", "keep")
        _fraction("*.train", self, "ema_decay")
        _require(
            self.batch_size % (self.workers * self.accumulate) == 0,
            "*.train.batch_size",
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
        names = ("width", "res_blocks", "codebook_size", "embed_dim", "transformer_dim")
        _positive("prior.network", self, *names, "transformer_heads", "transformer_layers")
        _require(self.width % 32 == 0, "prior.network.width", "be a multiple of 32", self.width)


@dataclass(frozen=True, kw_only=True)
class CodebookParams:
    perceptual_weight: float
    revived_share: float
    adversarial_weight: float
    discriminator_start: int
    discriminator_width: int
    discriminator_layers: int
    train: TrainParams

    def __post_init__(self) -> None:
        _fraction("prior.codebook", self, "revived_share")


@dataclass(frozen=True, kw_only=True)
class CodePredictionParams:
    feature_weight: float
    cross_entropy_weight: float
    train: TrainParams


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


@dataclass(frozen=True, kw_only=True)
class PriorParams:
    source: Literal["embedded", "train", "checkpoint"]
    checkpoint: str
    network: NetworkParams
    codebook: CodebookParams
    code_prediction: CodePredictionParams
    fusion: FusionParams

    def __post_init__(self) -> None:
        _require(
            self.source != "checkpoint" or bool(self.checkpoint),
            "prior.checkpoint",
            "name a file or folder when prior.source is checkpoint",
            self.checkpoint,
        )


@dataclass(frozen=True, kw_only=True)
class SynthesizeParams:
    variants: int
    batch_size: int
    precision: Literal["fp32", "bf16"]
    use_gpu: bool
    workers: int

    def __post_init__(self) -> None:
        _positive("synthesize", self, "variants", "batch_size", "workers")


@dataclass(frozen=True, kw_only=True)
class TrainDamParams:
    widths: tuple[int, ...]
    integration_steps: int
    lncc_window: int
    smoothness_weight: float
    train: TrainParams

    def __post_init__(self) -> None:
        _require(self.lncc_window % 2 == 1, "train_dam.lncc_window", "be odd", self.lncc_window)


@dataclass(frozen=True, kw_only=True)
class PairParams:
    feather: float
    batch_size: int
    use_gpu: bool
    workers: int

    def __post_init__(self) -> None:
        _positive("pair", self, "batch_size", "workers")
        _fraction("pair", self, "feather")


@dataclass(frozen=True, kw_only=True)
class TrainTgrnParams:
    alignment: Literal["dam", "none"]
    texture_attention: bool
    spatial_attention: bool
    widths: tuple[int, ...]
    res_blocks: int
    l1_weight: float
    perceptual_weight: float
    identity_weight: float
    metric_weight: float
    metric_margin: float
    negatives: tuple[Literal["id", "gp"], ...]
    adversarial_weight: float
    discriminator_start: int
    discriminator_width: int
    discriminator_layers: int
    train: TrainParams


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    batch_size: int
    bootstrap: int
    confidence: float
    pictures: int

    def __post_init__(self) -> None:
        _positive("evaluate", self, "batch_size", "bootstrap")
        _fraction("evaluate", self, "confidence")


@dataclass(frozen=True, kw_only=True)
class WeightsParams:
    root: str


@dataclass(frozen=True, kw_only=True)
class MlflowParams:
    tracking_uri: str
    experiment: str
    model_name: str


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml."""

    run: RunParams
    data: DataParams
    degradation: DegradationParams
    prior: PriorParams
    synthesize: SynthesizeParams
    train_dam: TrainDamParams
    pair: PairParams
    train_tgrn: TrainTgrnParams
    evaluate: EvaluateParams
    weights: WeightsParams
    mlflow: MlflowParams


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check `path`.

    Raises:
        ParamsError: a key is unknown, missing, ill-typed or out of range; the message names it.
    """
    path = Path(path)
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))  # YAML 1.2: 1e-4 is a number
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project folder, or name the file") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    try:
        return parse_params(tree)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None


def parse_params(tree: Any) -> Params:
    """Build `Params` from the plain mapping that YAML gives."""
    params: Params = _build(Params, tree, "")
    return params


def to_dict(section: Any) -> dict[str, Any]:
    """Plain mapping of a section, tuples as lists, for cards, hashes and MLflow."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    mapping: dict[str, Any] = plain(dataclasses.asdict(section))
    return mapping


def _build(cls: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ParamsError(f"{where or 'the file'}: expected a mapping, found {type(tree).__name__}")
    hints = typing.get_type_hints(cls)
    dotted = {name: f"{where}.{name}" if where else name for name in [*hints, *map(str, tree)]}
    unknown = [dotted[str(key)] for key in tree if key not in hints]
    if unknown:
        raise ParamsError(f"unknown key {unknown[0]}; known here: {', '.join(hints)}")
    missing = [dotted[name] for name in hints if name not in tree]
    if missing:
        raise ParamsError(f"missing key {missing[0]}")
    return cls(**{name: _convert(hint, tree[name], dotted[name]) for name, hint in hints.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ParamsError(f"{where}: expected one of {', '.join(map(str, choices))}, found {value!r}")
        return value
    if origin is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, list):
            raise ParamsError(f"{where}: expected a list, found {value!r}")
        if items[-1] is not ... and len(value) != len(items):
            raise ParamsError(f"{where}: expected {len(items)} values, found {len(value)}")
        hints = [items[0]] * len(value) if items[-1] is ... else list(items)
        return tuple(
            _convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True))
        )
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ParamsError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _require(holds: bool, key: str, rule: str, value: Any) -> None:
    if not holds:
        raise ParamsError(f"{key}: must {rule}, found {value!r}")


def _positive(section: str, params: Any, *names: str) -> None:
    for name in names:
        _require(getattr(params, name) > 0, f"{section}.{name}", "be above 0", getattr(params, name))


def _fraction(section: str, params: Any, *names: str) -> None:
    for name in names:
        value = getattr(params, name)
        _require(0 <= value <= 1, f"{section}.{name}", "be between 0 and 1", value)

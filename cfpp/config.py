"""params.yaml as frozen, typed sections.

Nothing else in the project reads params.yaml. An unknown, missing or ill-typed key is a
`ParamsError` that names it, so a typo never runs silently with a default.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cfpp.gate_params import PromoteParams
from cfpp.schema import ParamsError, build, fraction, not_negative, positive, require, to_dict
from cfpp.training_params import (
    LATENT_SIDE,
    CodebookParams,
    CodePredictionParams,
    FusionParams,
    NetworkParams,
    TrainDamParams,
    TrainTgrnParams,
)

__all__ = ["Params", "ParamsError", "load_params", "parse_params", "to_dict"]

# Top-level keys that begin so hold YAML anchors, for other sections to merge, and nothing else.
SHARED_PREFIX = "x-"
PILLOW_LIMIT = 178_956_970  # pixels beyond which Pillow opens no picture


@dataclass(frozen=True, kw_only=True)
class StorageParams:
    root: str


@dataclass(frozen=True, kw_only=True)
class ResourceParams:
    """What one actor of a stage takes of the cluster, and how many actors there may be."""

    cpus: float
    gpus: float
    memory_gb: float
    min_actors: int
    max_actors: int

    def __post_init__(self) -> None:
        not_negative(self, "cpus", "gpus", "memory_gb")
        positive(self, "min_actors", "max_actors")
        require(self.cpus + self.gpus > 0, "cpus", "be above 0 without gpus", self.cpus)
        require(self.min_actors <= self.max_actors, "min_actors", "be max_actors or less", self.min_actors)


@dataclass(frozen=True, kw_only=True)
class RunParams:
    seed: int
    size: int

    def __post_init__(self) -> None:
        not_negative(self, "seed")
        require(self.size in (64, 128, 256, 512), "size", "be 64, 128, 256 or 512", self.size)


@dataclass(frozen=True, kw_only=True)
class DataParams:
    source: Literal["procedural", "folder"]
    folder: str
    test_folder: str
    identity_pattern: str
    identities: int
    shots: int
    val_fraction: float
    test_fraction: float
    shard_size: int
    min_side: int
    max_pixels: int
    max_quarantine_ratio: float
    resources: ResourceParams

    def __post_init__(self) -> None:
        positive(self, "identities", "shots", "shard_size", "min_side", "max_pixels")
        require(self.max_pixels <= PILLOW_LIMIT, "max_pixels", f"be {PILLOW_LIMIT} or less", self.max_pixels)
        fraction(self, "val_fraction", "test_fraction", "max_quarantine_ratio")
        held_out = self.val_fraction + self.test_fraction
        require(held_out < 1, "val_fraction", "with test_fraction stay below 1", held_out)
        require(self.source != "folder" or bool(self.folder), "folder", "name a folder", self.folder)
        alone = not self.test_folder or (self.source == "folder" and self.test_fraction == 0)
        require(alone, "test_folder", "stand with source: folder and test_fraction: 0", self.test_folder)
        rule = "be empty or a regular expression with a group"
        try:
            groups = re.compile(self.identity_pattern).groups
        except re.error as error:
            raise ParamsError(f"identity_pattern: must {rule}: {error}") from None
        require(bool(groups) or not self.identity_pattern, "identity_pattern", rule, self.identity_pattern)


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
            require(0 <= low <= high, name, "be [low, high], low >= 0", (low, high))
        require(self.sigma[0] > 0, "sigma", "be above 0", self.sigma)
        require(self.downsample[0] >= 1, "downsample", "be 1 or more", self.downsample)
        require(self.jpeg[0] >= 1 and self.jpeg[1] <= 100, "jpeg", "be in 1..100", self.jpeg)


@dataclass(frozen=True, kw_only=True)
class DegradationParams:
    kernel_size: int
    large: DegradationRange
    small: DegradationRange

    def __post_init__(self) -> None:
        positive(self, "kernel_size")
        require(self.kernel_size % 2 == 1, "kernel_size", "be odd", self.kernel_size)


@dataclass(frozen=True, kw_only=True)
class PriorParams:
    kind: Literal["codeformer", "folder"]
    lq_folder: str
    id_folder: str
    gp_folder: str
    source: Literal["embedded", "train", "checkpoint"]
    checkpoint: str
    network: NetworkParams
    codebook: CodebookParams
    code_prediction: CodePredictionParams
    fusion: FusionParams

    def __post_init__(self) -> None:
        require(
            self.source != "checkpoint" or bool(self.checkpoint),
            "checkpoint",
            "name a file or folder when prior.source is checkpoint",
            self.checkpoint,
        )
        for name in ("lq_folder", "id_folder", "gp_folder"):
            given = bool(getattr(self, name))
            require(self.kind != "folder" or given, name, "name a folder when prior.kind is folder", "")


@dataclass(frozen=True, kw_only=True)
class SynthesizeParams:
    variants: int
    batch_size: int
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    compile: bool
    resources: ResourceParams

    def __post_init__(self) -> None:
        positive(self, "variants", "batch_size")


@dataclass(frozen=True, kw_only=True)
class PairParams:
    feather: float
    batch_size: int
    resources: ResourceParams

    def __post_init__(self) -> None:
        positive(self, "batch_size")
        fraction(self, "feather")


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    batch_size: int
    bootstrap: int
    confidence: float
    pictures: int

    def __post_init__(self) -> None:
        positive(self, "batch_size", "bootstrap")
        not_negative(self, "pictures")
        require(0 < self.confidence < 1, "confidence", "be above 0 and below 1", self.confidence)


@dataclass(frozen=True, kw_only=True)
class WeightsParams:
    """Networks from elsewhere: a folder, and files that are used in place of the automatic choice."""

    root: str
    identity: str
    landmarks: str


@dataclass(frozen=True, kw_only=True)
class MlflowParams:
    tracking_uri: str
    experiment: str
    model_name: str


@dataclass(frozen=True, kw_only=True)
class RetrainParams:
    max_age_days: float
    stale_after_hours: float

    def __post_init__(self) -> None:
        not_negative(self, "max_age_days")
        positive(self, "stale_after_hours")


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml."""

    storage: StorageParams
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
    promote: PromoteParams
    retrain: RetrainParams

    def __post_init__(self) -> None:
        levels, trained = len(self.prior.network.multipliers), self.prior.source == "train"
        fuse = self.prior.network.fuse
        require(not trained or bool(fuse), "prior.network.fuse", "name a side or more to be trained", fuse)
        require(
            not trained or self.run.size == LATENT_SIDE << (levels - 1),
            "prior.network.multipliers",
            f"have log2(run.size / {LATENT_SIDE}) + 1 levels for run.size {self.run.size}",
            self.prior.network.multipliers,
        )


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check `path`.

    Raises:
        ParamsError: there is no such file, it is not YAML in UTF-8, or a key is unknown, missing, ill-typed
            or out of range; the message names it.
    """
    path = Path(path)
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))  # YAML 1.2: 1e-4 is a number
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project folder, or name the file") from None
    except UnicodeDecodeError as error:
        raise ParamsError(
            f"{path}: not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    try:
        return parse_params(tree)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None


def parse_params(tree: Any) -> Params:
    """Build `Params` from the plain mapping that YAML gives; what holds only anchors is left out."""
    if isinstance(tree, dict):
        tree = {key: value for key, value in tree.items() if not str(key).startswith(SHARED_PREFIX)}
    params: Params = build(Params, tree, "")
    return params

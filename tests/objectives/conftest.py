"""The prior's three training stages, each a spec that builds its objective, and a batch for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cfpp.models.prior import load_stage_one
from cfpp.objectives.code_prediction import CodePredictionSpec
from cfpp.objectives.codebook import CodebookSpec
from cfpp.objectives.fusion import FusionSpec
from tests.objectives.tiny_stages import CODEBOOK, FUSION, NETWORK, PREDICTION, SIZE, save


@pytest.fixture
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def stage_one(tmp_path: Path) -> str:
    spec = CodebookSpec(CODEBOOK, NETWORK, SIZE, "")
    return save(tmp_path / "codebook", spec, spec.build().model)


@pytest.fixture
def batch(stage_one: str) -> dict[str, Tensor]:
    hq = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, SIZE, mode="bilinear")
    teacher = load_stage_one(stage_one, NETWORK, SIZE)
    codes = teacher.quantize.encode(teacher.encoder(hq))
    return {"hq": hq, "lq": (hq + 0.2 * torch.randn_like(hq)).clamp(-1, 1), "codes": codes}


@pytest.fixture
def prediction(stage_one: str) -> CodePredictionSpec:
    return CodePredictionSpec(PREDICTION, NETWORK, SIZE, "", stage_one)


@pytest.fixture
def fusion(tmp_path: Path, prediction: CodePredictionSpec) -> FusionSpec:
    second = save(tmp_path / "code_prediction", prediction, prediction.build().model)
    return FusionSpec(FUSION, PREDICTION, NETWORK, SIZE, "", prediction.codebook, second)

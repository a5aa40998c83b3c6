"""Stored faces: one global batch whatever the parts, and the curriculum's degradation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

from cfpp.config import DegradationParams, DegradationRange
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import Picture, encode_png
from cfpp.data.shards import write_shard
from cfpp.training.faces import FaceBatches, StoredFaces

from .toy import PaintSpec

NONE = DegradationRange(sigma=(0.01, 0.01), downsample=(1.0, 1.0), noise=(0.0, 0.0), jpeg=(100, 100))
FLAT = DegradationRange(sigma=(200.0, 200.0), downsample=(30.0, 30.0), noise=(0.0, 0.0), jpeg=(100, 100))
DEGRADATION = DegradationParams(kernel_size=41, small=NONE, large=FLAT)


@dataclass(frozen=True)
class LateSpec(PaintSpec):
    """Small degradation up to step 2, large from then on."""

    columns: ClassVar[tuple[str, ...]] = ("hq", "lq")

    def degradation_for(self, step: int) -> Literal["small", "large"]:
        return "small" if step < 3 else "large"


def grey_noise(index: int) -> Picture:
    """Not symmetric; grey, because JPEG halves the resolution of colour."""
    noise = np.random.default_rng(index).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    return np.repeat(noise, 3, axis=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    manifest = Manifest()
    for split, count in (("train", 10), ("val", 5)):
        members = []
        for index in range(count):
            picture = grey_noise(index)
            meta = json.dumps({"identity": str(index), "source": "x"}).encode()
            members.append((f"{split}{index}", {"hq.png": encode_png(picture), "meta.json": meta}))
        file = write_shard(shard_path(root / "data" / "shards", split, 0), members)
        manifest.put(ShardRow(split, 0, file.count, file.bytes, file.sha256, "", "", 0), [])
    manifest.save(root / "data" / "shards")
    return root


def opened(root: Path, spec: PaintSpec, split: str = "train", parts: int = 1, **options: Any) -> FaceBatches:
    source = StoredFaces(str(root), **options).open(spec, split, batch_size=4, parts=parts, seed=3)
    assert source is not None
    return source


def test_parts_are_the_global_batch_cut_up(root: Path) -> None:
    whole, cut = opened(root, PaintSpec(), flip=True), opened(root, PaintSpec(), parts=2, flip=True)
    for step in range(4):
        batch = whole.batch(step, 0)
        expected = dict(zip(batch["key"], batch["hq"], strict=True))
        found: dict[str, torch.Tensor] = {}
        for part in range(2):
            piece = cut.batch(step, part)
            assert len(piece["key"]) == 2
            found |= dict(zip(piece["key"], piece["hq"], strict=True))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_curriculum_decides_the_degradation_of_training_faces(root: Path) -> None:
    source = opened(root, LateSpec(), flip=True, degradation=DEGRADATION)
    spread = [source.batch(step, 0)["lq"].std().item() for step in (2, 3)]
    assert spread[0] > 5 * spread[1]
    batch = source.batch(2, 0)
    assert (batch["lq"] - batch["hq"]).abs().mean() < 0.1  # mirrored together


def test_held_out_faces_are_not_mirrored_and_always_get_the_large_range(root: Path) -> None:
    source = opened(root, LateSpec(), "val", flip=True, degradation=DEGRADATION)
    assert len(source) == 5
    batch = source.batch(0, 0)
    assert batch["lq"].std() < 0.2
    for key, tensor in zip(batch["key"], batch["hq"], strict=True):
        picture = grey_noise(int(key.removeprefix("val")))
        assert torch.allclose(tensor, torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1, atol=1e-5)


def test_an_absent_split_is_none_and_the_data_name_their_manifests(root: Path) -> None:
    faces = StoredFaces(str(root), flip=True, degradation=DEGRADATION)
    assert faces.open(LateSpec(), "test", batch_size=4, parts=1, seed=3) is None
    first = faces.sha256(LateSpec())
    assert first == faces.sha256(PaintSpec())  # lq is made, not read
    manifest = Manifest.load(root / "data" / "shards")
    manifest.put(ShardRow("test", 0, 1, 1, "other", "", "", 0), [])
    manifest.save(root / "data" / "shards")
    assert faces.sha256(LateSpec()) != first

"""Sidecar codes: those of stage 1 for each clean face, mirrored with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cfpp.data.manifest import Manifest
from cfpp.data.pictures import encode_png, to_tensor
from cfpp.data.samples import Batches, SampleStore
from cfpp.data.shards import ShardError
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.prior import network_config
from cfpp.models.weights import Card, WeightsError, save_model
from cfpp.synthesis.codes import CodesSpec, codes_config_hash
from cfpp.synthesis.shard_work import make_shard
from cfpp.synthesis.tars import plan_from
from cfpp.training_params import NetworkParams
from tests.tiny_models import NETWORK, SIZE
from tests.tiny_shards import write_stage

KEYS = [f"face{number}" for number in range(5)]


@pytest.fixture
def codebook(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = VQAutoEncoder(NETWORK, SIZE)
    card = Card(kind="vqautoencoder", config=network_config(NETWORK, SIZE), steps=1)
    save_model(tmp_path / "codebook", model, card)
    return tmp_path / "codebook"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Clean faces in data/shards; face2 cannot be decoded."""
    rng, members = np.random.default_rng(0), []
    for key in KEYS:
        picture = encode_png(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        meta = json.dumps({"identity": key, "source": "x"}).encode()
        members.append((key, {"hq.png": b"no picture" if key == "face2" else picture, "meta.json": meta}))
    write_stage(tmp_path / "data" / "shards", {"train": members})
    return tmp_path


def make_codes(project: Path, spec: CodesSpec) -> Manifest:
    folder, manifest = project / "data" / "codes", Manifest()
    for task in plan_from(project / "data" / "shards"):
        outcome = make_shard(task, spec.build(), folder, "hash")
        manifest.put(outcome.row, outcome.refused)
    manifest.save(folder)
    return manifest


def test_they_are_the_codes_of_the_face_as_the_batch_shows_it(project: Path, codebook: Path) -> None:
    spec = CodesSpec(str(codebook), NETWORK, SIZE, use_gpu=False)
    manifest = make_codes(project, spec)
    assert [row.key for row in manifest.refused()] == ["face2"]
    store = SampleStore(project, "train", ("hq", "codes"))
    assert [key for key, _ in store.items] == [key for key in KEYS if key != "face2"]
    model, mirrored = spec.build().model, set()
    plain = {key: to_tensor(store.pictures(place)["hq"][None]) for place, (key, _) in enumerate(store.items)}
    for step in range(4):
        batch = Batches(store, batch_size=4, seed=1, flip=True).batch(step)
        with torch.no_grad():
            expected = model.quantize.encode(model.encoder(batch["hq"]))
        assert batch["codes"].dtype == torch.int64
        assert torch.equal(batch["codes"], expected)
        mirrored |= {
            not torch.equal(face, plain[key][0]) for key, face in zip(batch["key"], batch["hq"], strict=True)
        }
    assert mirrored == {True, False}


def test_without_them_the_store_says_so(project: Path) -> None:
    with pytest.raises(ShardError, match=r"data/codes: its manifest lists no train shards"):
        SampleStore(project, "train", ("hq", "codes"))


def test_another_codebook_makes_them_stale(codebook: Path) -> None:
    spec = CodesSpec(str(codebook), NETWORK, SIZE, use_gpu=False)
    assert codes_config_hash("a", spec) == codes_config_hash("a", spec)
    assert codes_config_hash("a", spec) != codes_config_hash("b", spec)


def test_a_codebook_that_does_not_fit_is_refused(codebook: Path) -> None:
    wider: NetworkParams = replace(NETWORK, codebook_size=64)
    with pytest.raises(WeightsError, match=r"quantize\.embedding\.weight is"):
        CodesSpec(str(codebook), wider, SIZE, use_gpu=False).build()

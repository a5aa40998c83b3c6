"""Stores join the sidecars, and batches are pure functions of (seed, step)."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cfpp.config import DegradationRange
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import Picture, encode_png
from cfpp.data.samples import Batches, SampleStore, in_order
from cfpp.data.shards import ShardError, write_shard

SMALL = DegradationRange(sigma=(0.1, 10.0), downsample=(1.0, 12.0), noise=(0.0, 15.0), jpeg=(60, 100))
LARGE = DegradationRange(sigma=(90.0, 99.0), downsample=(128.0, 128.0), noise=(0.0, 5.0), jpeg=(60, 60))
KEYS = [f"k{i:02d}" for i in range(11)]
MISSING = "k04"  # quarantined by the second stage


def picture(key: str, column: str, variant: int) -> Picture:
    """Unlike for every key, column and variant, and not symmetric."""
    seed = [int(key[1:]), *column.encode(), variant]
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    columns = {"shards": ["hq"], "restored": ["lq", "id", "gp"], "pairs": ["warp", "ap", "mask"]}
    for folder, names in columns.items():
        manifest = Manifest()
        for shard in range(2):
            samples = []
            for key in KEYS[shard::2]:
                if folder == "shards":
                    meta = {"identity": key[:2], "source": "x", "landmarks5": [[1.0, 2.0]] * 5}
                    members = {
                        "meta.json": json.dumps(meta).encode(),
                        "hq.png": encode_png(picture(key, "hq", 0)),
                    }
                elif key == MISSING:
                    continue
                else:
                    members = {}
                    for variant in range(2):
                        for name in names:
                            made = picture(key, name, variant)
                            data = encode_png(made[..., 0] if name == "mask" else made)
                            members[f"{variant}.{name}.png"] = data
                        if folder == "restored":
                            members[f"{variant}.draw.json"] = json.dumps({"jpeg": 40 + variant}).encode()
                samples.append((key, members))
            file = write_shard(shard_path(root / "data" / folder, "train", shard), samples)
            manifest.put(ShardRow("train", shard, file.count, file.bytes, file.sha256, "", "", 0), [])
        manifest.save(root / "data" / folder)
        # What no manifest lists is never read.
        (root / "data" / folder / "train/00007.tar").write_bytes(b"an orphan")
    return root


def test_the_join_gives_each_column_its_own_picture(project: Path) -> None:
    store = SampleStore(project, "train", ["hq", "id", "mask"])
    assert store.items == [(key, v) for key in KEYS if key != MISSING for v in range(2)]
    for index, (key, variant) in enumerate(store.items):
        sample = store[index]
        assert (sample.key, sample.variant, sample.identity) == (key, variant, key[:2])
        assert (sample.pictures["hq"] == picture(key, "hq", 0)).all()
        assert (sample.pictures["id"] == picture(key, "id", variant)).all()
        assert (sample.pictures["mask"] == picture(key, "mask", variant)[..., 0]).all()
        assert sample.meta["draw"]["jpeg"] == 40 + variant
        assert len(sample.meta["landmarks5"]) == 5


def test_a_store_of_clean_faces_has_each_key_once(project: Path) -> None:
    store = SampleStore(project, "train", ["hq"])
    assert store.items == [(key, 0) for key in KEYS]
    assert "draw" not in store[0].meta


def test_a_store_travels(project: Path) -> None:
    store = SampleStore(project, "train", ["hq", "lq"])
    store.pictures(3)
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.pictures(3)["lq"] == store.pictures(3)["lq"]).all()


def test_what_is_not_there_is_named(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="lists no test shards"):
        SampleStore(project, "test", ["hq"])
    with pytest.raises(ShardError, match="run the stage"):
        SampleStore(tmp_path, "train", ["hq"])
    with pytest.raises(ValueError, match="unknown column"):
        SampleStore(project, "train", ["hq", "nope"])


def test_an_epoch_is_a_permutation_split_over_the_ranks(project: Path) -> None:
    store = SampleStore(project, "train", ["hq"])
    alone = Batches(store, batch_size=4, seed=7)
    ranks = [Batches(store, batch_size=4, seed=7, rank=rank, world=2) for rank in range(2)]
    stream: list[int] = []
    for step in range(11):  # 44 places = 4 epochs of 11
        whole = alone.indices(step)
        assert sorted(whole) == sorted(ranks[0].indices(step) + ranks[1].indices(step))
        stream += whole
    epochs = [stream[start : start + 11] for start in range(0, 44, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_depends_on_seed_and_step_alone(project: Path) -> None:
    def batches(seed: int) -> Batches:
        store = SampleStore(project, "train", ["hq"])
        return Batches(store, batch_size=4, seed=seed, flip=True, degrade=SMALL)

    first = batches(1)
    for step in (5, 0, 3):
        one, two = first.batch(step), batches(1).batch(step)
        assert one["key"] == two["key"]
        assert torch.equal(one["hq"], two["hq"])
        assert torch.equal(one["lq"], two["lq"])
    assert any(batches(2).batch(step)["key"] != first.batch(step)["key"] for step in range(3))
    assert not torch.equal(first.batch(0)["lq"], first.batch(0)["hq"])


def test_the_ranks_batches_are_those_of_one_process(project: Path) -> None:
    store = SampleStore(project, "train", ["hq"])
    whole = Batches(store, batch_size=6, seed=1, flip=True, degrade=SMALL).batch(4)
    for rank in range(2):
        part = Batches(store, batch_size=6, seed=1, flip=True, degrade=SMALL, rank=rank, world=2).batch(4)
        assert part["key"] == whole["key"][rank::2]
        assert torch.equal(part["lq"], whole["lq"][rank::2])


def test_a_flip_mirrors_all_columns_alike(project: Path) -> None:
    store = SampleStore(project, "train", ["hq", "id", "mask"])
    seen = set()
    for step in range(6):
        batch = Batches(store, batch_size=4, seed=0, flip=True).batch(step)
        for row, (key, variant) in enumerate(zip(batch["key"], batch["variant"].tolist(), strict=True)):
            flipped = set()
            for name, v in (("hq", 0), ("id", variant)):
                image = torch.from_numpy(picture(key, name, v)).permute(2, 0, 1) / 127.5 - 1
                mirrored = torch.equal(batch[name][row], image.flip(2))
                assert mirrored or torch.equal(batch[name][row], image)
                flipped.add(mirrored)
            assert len(flipped) == 1
            seen |= flipped
    assert seen == {True, False}
    mask = batch["mask"]
    assert mask.shape == (4, 1, 16, 16)
    assert mask.min() >= 0
    assert 0.9 < mask.max() <= 1


def test_a_curriculum_changes_the_range_by_step(project: Path) -> None:
    store = SampleStore(project, "train", ["hq"])

    def detail(batches: Batches, step: int) -> float:
        lq = batches.batch(step)["lq"]
        return float((lq[..., 1:] - lq[..., :-1]).abs().mean())

    clear = DegradationRange(sigma=(0.1, 0.1), downsample=(1.0, 1.0), noise=(0.0, 0.0), jpeg=(95, 95))
    batches = Batches(store, batch_size=4, seed=0, degrade=lambda step: clear if step < 3 else LARGE)
    assert detail(batches, 2) > 2 * detail(batches, 3)


def test_workers_of_a_loader_give_the_same_batches(project: Path) -> None:
    store = SampleStore(project, "train", ["hq", "gp"])
    batches = Batches(store, batch_size=4, seed=0)
    loader = DataLoader(batches, batch_size=None, sampler=range(2, 6), num_workers=2)  # type: ignore[arg-type]
    for step, batch in zip(range(2, 6), loader, strict=True):
        assert batch["key"] == batches.batch(step)["key"]
        assert torch.equal(batch["gp"], batches.batch(step)["gp"])


def test_in_order_gives_everything_once(project: Path) -> None:
    store = SampleStore(project, "train", ["hq", "gp"])
    found = list(in_order(store, 6))
    keys = [item for batch in found for item in zip(batch["key"], batch["variant"].tolist(), strict=True)]
    assert keys == store.items
    assert [len(batch["key"]) for batch in found] == [6, 6, 6, 2]


def test_sizes_that_do_not_fit_are_refused(project: Path) -> None:
    store = SampleStore(project, "train", ["hq"])
    with pytest.raises(ValueError, match="does not fit"):
        Batches(store, batch_size=5, seed=0, world=2)
    with pytest.raises(ValueError, match="degrade"):
        Batches(SampleStore(project, "train", ["gp"]), batch_size=4, seed=0, degrade=SMALL)

"""shard, synthesize and pair on a few procedural faces, one worker, against what they should have done."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfpp.config import Params, load_params
from cfpp.data.components import component_mask
from cfpp.data.degradation import Degradation, apply, draw
from cfpp.data.draws import generator
from cfpp.data.manifest import Manifest, shard_path
from cfpp.data.pictures import decode, decode_grey, encode_png, to_pictures, to_tensor
from cfpp.data.procedural.render import render
from cfpp.data.samples import SampleStore
from cfpp.data.shards import DataError, ShardError, read_shard, write_shard
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.dam import DAM
from cfpp.models.prior import network_config
from cfpp.models.weights import Card, save_model
from cfpp.synthesis.degraded import degrader
from cfpp.synthesis.faces import FaceWorker, face_config_hash, face_spec, list_source, plan_faces
from cfpp.synthesis.forward import JointForward
from cfpp.synthesis.pairs import PairWorker, pair_config_hash, pair_spec
from cfpp.synthesis.restored import RestoredWorker, restored_config_hash, restored_spec
from cfpp.synthesis.shard_work import ShardTask, ShardWorker, make_shard
from cfpp.synthesis.tars import TarTask, plan_from
from cfpp.training_params import NetworkParams

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
TINY = NetworkParams(
    width=32,
    multipliers=(1, 1, 1),
    res_blocks=1,
    codebook_size=16,
    embed_dim=256,
    transformer_dim=32,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)


@dataclass
class FakePrior:
    """I_F = the input darkened, I_G = the input mirrored; a value that is not finite on demand."""

    broken: bool = False

    def restore_pair(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        i_f = lq * 0.5
        if self.broken:
            i_f[1] = torch.nan
        return i_f, lq.flip(3)


def fake_worker(params: Params, prior: Path, broken: bool = False) -> RestoredWorker:
    return RestoredWorker(restored_spec(params, prior), JointForward(FakePrior(broken), torch.device("cpu")))


class ShiftByTwo(nn.Module):
    """A DAM that always moves what it sees two columns to the left."""

    def forward(self, i_g: Tensor, i_f: Tensor) -> Tensor:
        flow = torch.zeros_like(i_g[:, :2])
        flow[:, 1] = 2.0
        return flow


@pytest.fixture(scope="module")
def params() -> Params:
    params = load_params(PARAMS)
    return replace(
        params,
        run=replace(params.run, size=64),
        data=replace(
            params.data,
            source="procedural",
            identities=9,
            shots=1,
            shard_size=4,
            val_fraction=0.3,
            test_fraction=0.3,
        ),
        synthesize=replace(params.synthesize, batch_size=3, variants=2),
        pair=replace(params.pair, batch_size=3),
    )


def build(folder: Path, tasks: list[ShardTask], worker: ShardWorker) -> Manifest:
    manifest = Manifest()
    for task in tasks:
        outcome = make_shard(task, worker, folder, "config")
        manifest.put(outcome.row, outcome.refused)
    manifest.save(folder)
    return manifest


@pytest.fixture(scope="module")
def project(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose three data stages were run with the fakes."""
    root = tmp_path_factory.mktemp("project")
    tasks = plan_faces(params, list_source(params.data))
    build(root / "data/shards", list(tasks), FaceWorker(face_spec(params)))
    restored = fake_worker(params, root)
    build(root / "data/restored", list(plan_from(root / "data/shards")), restored)
    pairs = PairWorker(pair_spec(params, root), ShiftByTwo())  # type: ignore[arg-type]
    build(root / "data/pairs", list(plan_from(root / "data/restored")), pairs)
    return root


def test_shards_hold_the_rendered_faces(project: Path, params: Params) -> None:
    seen = 0
    for split in ("train", "val", "test"):
        store = SampleStore(project, split, ["hq"])
        for index in range(len(store)):
            sample = store[index]
            expected = render(params.run.seed, int(sample.key[1:6]), int(sample.key[7:]), 64)
            assert (sample.pictures["hq"] == expected.picture).all()
            np.testing.assert_allclose(sample.meta["landmarks68"], expected.landmarks68, atol=1e-3)
            assert (sample.identity, sample.key) == (expected.identity, expected.key)
            seen += 1
    assert seen == 9


def test_every_stage_has_the_same_keys_in_the_same_shards(project: Path) -> None:
    for row in Manifest.load(project / "data/shards").shards.values():
        keys = [
            [key for key, _ in read_shard(shard_path(project / "data" / name, row.split, row.shard))]
            for name in ("shards", "restored", "pairs")
        ]
        assert keys[0] == keys[1] == keys[2]
        assert len(keys[0]) == row.count > 0


def test_restored_is_the_drawn_degradation_and_the_priors_answer(project: Path, params: Params) -> None:
    store = SampleStore(project, "train", ["hq", "lq", "id", "gp"])
    assert {variant for _, variant in store.items} == {0, 1}
    for index in range(len(store)):
        sample = store[index]
        rng = generator(params.run.seed, "degradation", sample.key, sample.variant)
        drawn = draw(params.degradation.large, rng)
        assert Degradation(**sample.meta["draw"]) == drawn
        lq = apply(sample.pictures["hq"], drawn, rng)
        assert (sample.pictures["lq"] == lq).all()
        darker = (lq / 127.5 - 1) * 0.5
        assert np.abs(sample.pictures["id"] - (darker + 1) * 127.5).max() <= 0.5 + 1e-3
        assert (sample.pictures["gp"] == lq[:, ::-1]).all()
    held_out = SampleStore(project, "test", ["lq"])
    assert {variant for _, variant in held_out.items} == {0}


def test_pairs_are_warped_and_mixed_by_the_mask(project: Path, params: Params) -> None:
    store = SampleStore(project, "val", ["id", "gp", "warp", "ap", "mask"])
    mask = component_mask(64, params.pair.feather)
    for index in range(len(store)):
        found = {name: picture.astype(float) for name, picture in store.pictures(index).items()}
        shifted = np.concatenate([found["gp"][:, 2:], found["gp"][:, -1:], found["gp"][:, -1:]], axis=1)
        assert np.abs(found["warp"] - shifted).max() <= 1
        assert np.abs(found["mask"] / 255 - mask).max() <= 0.5 / 255 + 1e-6
        share = found["mask"][..., None] / 255
        assert np.abs(found["ap"] - (share * found["id"] + (1 - share) * found["warp"])).max() <= 1.001
    assert 0.02 < mask.mean() < 0.5


def test_bytes_do_not_depend_on_the_other_shards(project: Path, params: Params, tmp_path: Path) -> None:
    tasks = plan_from(project / "data/shards")
    for task in (tasks[-1], tasks[0]):
        worker = fake_worker(params, project)
        outcome = make_shard(task, worker, tmp_path, "config")
        row = Manifest.load(project / "data/restored").shards[task.split, task.shard]
        assert outcome.row.sha256 == row.sha256


def small_shard(tmp_path: Path, faces: dict[str, bytes]) -> TarTask:
    path = shard_path(tmp_path, "train", 0)
    file = write_shard(path, [(key, {"hq.png": data}) for key, data in sorted(faces.items())])
    return TarTask("train", 0, file.sha256, str(path))


def test_a_face_that_cannot_be_restored_is_quarantined_alone(tmp_path: Path, params: Params) -> None:
    good = encode_png(render(0, 0, 0, 64).picture)
    task = small_shard(tmp_path, {"a": good, "b": b"broken", "c": good})
    worker = fake_worker(params, tmp_path)
    outcome = make_shard(task, worker, tmp_path / "out", "config")
    assert outcome.row.count == 2
    assert [(row.key, row.source) for row in outcome.refused] == [("b", "train/00000.tar")]
    assert "cannot decode" in outcome.refused[0].reason

    one_by_two = replace(params, synthesize=replace(params.synthesize, batch_size=4))
    task = small_shard(tmp_path, {"a": good, "c": good})
    worker = fake_worker(one_by_two, tmp_path, broken=True)
    outcome = make_shard(task, worker, tmp_path / "out", "config")
    assert [(row.key, row.reason) for row in outcome.refused] == [
        ("a", "the prior gave values that are not finite")
    ]


def test_an_input_shard_that_was_tampered_with_is_an_error(tmp_path: Path, params: Params) -> None:
    task = small_shard(tmp_path, {"a": encode_png(render(0, 0, 0, 64).picture)})
    data = bytearray(Path(task.source).read_bytes())
    data[900] ^= 1
    Path(task.source).write_bytes(data)
    worker = fake_worker(params, tmp_path)
    with pytest.raises(ShardError, match="not those in the manifest"):
        make_shard(task, worker, tmp_path / "out", "config")
    with pytest.raises(DataError, match="no manifest"):
        plan_from(tmp_path / "nowhere")


def test_real_networks_go_through_both_stages(tmp_path: Path, params: Params) -> None:
    torch.manual_seed(0)
    prior, dam = CodeFormer(TINY, 64), DAM((4, 8), 0)
    save_model(tmp_path / "prior", prior, Card(kind="codeformer", config=network_config(TINY, 64), steps=1))
    config = {"widths": [4, 8], "integration_steps": 0}
    save_model(tmp_path / "dam", dam, Card(kind="dam", config=config, steps=1))
    picture = render(0, 0, 0, 64).picture
    task = small_shard(tmp_path, {"a": encode_png(picture)})

    spec = restored_spec(params, tmp_path / "prior")
    first = make_shard(task, spec.build(), tmp_path / "out", "config")
    again = make_shard(task, spec.build(), tmp_path / "again", "config")
    assert first.row.sha256 == again.row.sha256
    [(_, members)] = read_shard(shard_path(tmp_path / "out", "train", 0))
    with torch.inference_mode():
        i_f, i_g = prior.eval().restore_pair(to_tensor(decode(members["1.lq.png"])[None]))
    for name, image in (("id", i_f), ("gp", i_g)):
        stored = decode(members[f"1.{name}.png"]).astype(int)
        assert np.abs(stored - to_pictures(image)[0]).max() <= 1

    restored = shard_path(tmp_path / "out", "train", 0)
    task = TarTask("train", 0, first.row.sha256, str(restored))
    make_shard(task, pair_spec(params, tmp_path / "dam").build(), tmp_path / "pairs", "config")
    [(_, pair)] = read_shard(shard_path(tmp_path / "pairs", "train", 0))
    gp = decode(members["0.gp.png"])
    assert np.abs(decode(pair["0.warp.png"]).astype(int) - gp).mean() < 1  # an untrained DAM hardly moves
    assert decode_grey(pair["0.mask.png"]).shape == (64, 64)

    hashes = {restored_config_hash(params, tmp_path / "prior")}
    hashes.add(restored_config_hash(replace(params, run=replace(params.run, seed=1)), tmp_path / "prior"))
    hashes.add(pair_config_hash(params, tmp_path / "dam"))
    save_model(
        tmp_path / "prior",
        CodeFormer(TINY, 64),
        Card(kind="codeformer", config=network_config(TINY, 64), steps=1),
    )
    hashes.add(restored_config_hash(params, tmp_path / "prior"))
    assert len(hashes) == 4
    with pytest.raises(DataError, match=r"made for faces of 64 pixels, run\.size is 128"):
        restored_config_hash(replace(params, run=replace(params.run, size=128)), tmp_path / "prior")


def test_a_gpus_way_of_degrading_gives_the_same_faces_but_for_rounding(params: Params) -> None:
    faces = [(f"k{number}", render(0, number, 0, 64).picture) for number in range(3)]
    maker = degrader(params)
    one_by_one = [item for key, hq in faces for item in maker.degrade(key, hq, "train")]
    together = maker.degrade_on(torch.device("cpu"), faces, "train")
    assert maker.degrade_on(torch.device("cpu"), [], "train") == []
    for one, other in zip(one_by_one, together, strict=True):
        assert (one.key, one.variant, one.drawn) == (other.key, other.variant, other.drawn)
        assert np.abs(one.picture.astype(int) - other.picture).mean() < 1


def test_only_what_decides_the_bytes_makes_faces_stale(params: Params) -> None:
    def changed(**data: object) -> bool:
        other = replace(params, data=replace(params.data, **data))  # type: ignore[arg-type]
        return face_config_hash(other) != face_config_hash(params)

    wider = replace(params.data.resources, max_actors=7)
    assert not changed(resources=wider, identities=100, val_fraction=0.1)
    assert face_config_hash(replace(params, run=replace(params.run, size=128))) != face_config_hash(params)
    assert changed(source="folder", folder="x")

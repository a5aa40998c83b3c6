"""`cfpp lineage`: from a face to the models that learnt from it, and from a model back to its data."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from cfpp.cli import main
from cfpp.config import load_params
from cfpp.data.manifest import Manifest
from cfpp.lineage import lineage
from cfpp.models.weights import Card, save_model
from cfpp.registry.package import log_package, register
from cfpp.registry.provenance import part_tags
from cfpp.registry.runs import Store
from cfpp.restoration.restorer import PARTS
from cfpp.storage import copy, names_under
from cfpp.training.faces import StoredFaces
from tests.s3 import s3_server
from tests.tiny_models import write_models
from tests.tiny_project import add_shard, move_to_bucket, write_project

NAME = "codeformer-plus-plus"


@dataclass(frozen=True)
class Columns:
    """What of an objective's spec says which data it reads."""

    columns: Sequence[str]


def identity(root: Path, *columns: str) -> str:
    """What a training stage writes on its card."""
    spec: Any = Columns(columns)
    return StoredFaces(str(root), flip=True).sha256(spec)


def model(folder: Path, seed: float, **facts: Any) -> Card:
    return save_model(
        folder, {"w": torch.full((1,), seed)}, Card(config={}, steps=9, git_commit="f00", **facts)
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Data of four stages, a prior trained here from its codebook, a DAM, a TGRN of data that is gone."""
    root = write_project(tmp_path)
    monkeypatch.chdir(root)
    codebook = model(
        root / "runs/codebook-1/model",
        1.0,
        kind="vqautoencoder",
        source="codebook-1",
        data_manifest_sha256=identity(root, "hq"),
    )
    prior = model(
        root / "models/prior",
        2.0,
        kind="codeformer",
        source="fusion-2",
        data_manifest_sha256=identity(root, "hq", "codes"),
        started_from={"codebook": codebook.sha256},
    )
    dam = {"kind": "dam", "source": "train_dam-3", "data_manifest_sha256": identity(root, "id", "gp")}
    model(root / "models/dam", 3.0, **dam)
    model(root / "runs/train_dam-3/model", 3.0, **dam)  # as the run left it: the same training
    model(
        root / "models/tgrn",
        4.0,
        kind="tgrn",
        source="train_tgrn-4",
        data_manifest_sha256="0" * 64,
        started_from={"prior": prior.sha256},
    )
    yield root
    mlflow.set_tracking_uri(None)


def register_version(root: Path, alias: str = "") -> str:
    """A version with the tags of the register stage and no package within reach."""
    params = load_params()
    store = Store.open(params.mlflow, root)
    client = mlflow.MlflowClient(store.uri)
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    tags = lineage(params, root) | part_tags(root / "models", PARTS)
    tags |= {"git_commit": "abc123", "parent_run": "p1", "stage_run": "s1", "eval.out.psnr": "24.125"}
    version = client.create_model_version(NAME, str(root / "nowhere"), tags=tags)
    if alias:
        client.set_registered_model_alias(NAME, alias, version.version)
    return str(version.version)


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["lineage", *words]) == 0
    return capsys.readouterr().out


def test_a_face_is_followed_to_the_models_that_learnt_from_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"no version of {NAME} is registered" in lines(capsys, "ada")
    assert not (project / "mlflow.db").exists()  # asking makes nothing
    register_version(project, "challenger")
    out = lines(capsys, "ada")
    digest = hashlib.sha256((project / "data/restored/train/00000.tar").read_bytes()).hexdigest()
    for expected in (
        "people/ada.jpg of the procedural faces",
        "person-ada, all of whose faces are in split train",
        "hq.png, meta.json",
        "codes.npy",
        f"{project}/data/restored/train/00000.tar, sha256 {digest[:12]}, made by config cccccccccccc",
        "variant 0: noise 3.5, jpeg 60",
        "variant 1: noise 4.5, jpeg 60",
        "0.ap.png, 0.mask.png, 0.warp.png, 1.ap.png",
        "codebook-1 (runs/codebook-1/model): on this face, from data/shards\n",
        "fusion-2 (models/prior): on this face, from data/shards, data/codes\n",
        "train_dam-3 (models/dam): on this face, from data/shards, data/restored\n",
        "train_tgrn-4 (models/tgrn): on other data than lies here now, unknown whether on this face",
        f"{NAME} version 1 (challenger): of this data; prior, dam learnt from the face; unknown of tgrn",
    ):
        assert expected in out
    assert out.count("train_dam-3") == 1


def test_a_face_that_a_stage_refused_ends_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register_version(project)
    out = lines(capsys, "bob")
    assert "data/restored   ends here, quarantined: blurred" in out
    assert "data/pairs" not in out
    assert "fusion-2 (models/prior): on this face" in out
    assert "train_dam-3 (models/dam): not on this face, which is not in data/restored" in out
    assert "; prior learnt from the face; unknown of tgrn" in out
    out = lines(capsys, "zoe")
    assert "people/zoe.jpg of the procedural faces of run.seed 0, split train" in out
    assert "data/shards     ends here, quarantined: blurred" in out
    assert "no training sees a quarantined face" in out
    assert "of this data, in which the face is quarantined" in out


def test_held_out_faces_are_not_trained_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register_version(project)
    out = lines(capsys, "tim")
    assert "trainings       held out (test): not trained on" in out
    assert "version 1: of this data, in which the face is held out (test): not trained on" in out
    assert "held out (val): looked at while training, not trained on" in lines(capsys, "vic")


def test_what_older_data_held_is_not_guessed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register_version(project)
    for stage in ("shards", "codes", "restored"):
        manifest = Manifest.load(project / "data" / stage)
        add_shard(project / "data" / stage, manifest, ("train", 1), {"fay": {"x.png": b"1"}}, "later")
        manifest.save(project / "data" / stage)
    register_version(project)
    out = lines(capsys, "ada")
    assert "fusion-2 (models/prior): on other data than lies here now" in out
    [first, second] = [line for line in out.splitlines() if line.startswith("version ")]
    assert "than the present one, unknown whether of this face" in first
    assert "version 2: of this data; no part known to have learnt from the face" in second
    assert "not the present one" in lines(capsys, "--model", "1")


def test_an_unknown_key_is_answered_with_those_like_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lineage", "evee"]) == 1
    assert "evee: none of the 9 faces" in (err := capsys.readouterr().err)
    assert "did you mean eve" in err
    assert main(["lineage", "1234567"]) == 1
    assert "keys look like zoe, " in capsys.readouterr().err


@pytest.mark.parametrize("reference", ["1", "champion", f"models:/{NAME}/1", f"models:/{NAME}@champion"])
def test_a_version_is_walked_back_to_its_data(
    project: Path, capsys: pytest.CaptureFixture[str], reference: str
) -> None:
    store = Store.open(load_params().mlflow, project)
    parent = store.start_parent("dvc repro", load_params(), {})
    run = store.start_stage("train_dam", parent, {"weights_from": "train_dam-3"})
    run.end("FINISHED")
    register_version(project, "champion")
    register_version(project, "challenger")
    out = lines(capsys, "--model", reference)
    manifest = hashlib.sha256((project / "data/shards/manifest.parquet").read_bytes()).hexdigest()
    for expected in (
        f"{NAME} version 1 (champion), registered ",
        "git commit abc123",
        "those of the present params.yaml",
        "run p1, its stage register s1",
        "I_out           psnr 24.125",
        "prior           codeformer, 9 steps, sha256",
        "by fusion-2",
        "  codebook      vqautoencoder, 9 steps",
        "trained on data/shards, data/codes as they lie here now",
        f"MLflow run {run.run_id}",
        "tgrn            tgrn, 9 steps",
        "trained on other data (000000000000) than lies here now",
        "began with prior, sha256",
        f"manifest {manifest[:12]}, which lies here now: {project}/data/shards",
        "train: 2 shards, 5 faces, 1 quarantined",
        "test: 1 shards, 2 faces, 0 quarantined",
    ):
        assert expected in out


def test_a_part_whose_card_is_gone_is_named_by_the_versions_tags(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_version(project)
    (project / "models/tgrn/card.json").unlink()
    (project / "models/prior/card.json").write_text("no card")
    out = lines(capsys, "--model", "1")
    assert "by train_tgrn-4; its card is not within reach" in out
    assert "dam             dam, 9 steps" in out


def test_an_unknown_version_is_answered_with_those_there_are(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lineage", "--model", "1"]) == 1
    assert f"1: no such model version; there is no version of {NAME}" in capsys.readouterr().err
    register_version(project, "challenger")
    assert main(["lineage", "--model", "champion"]) == 1
    assert f"there is {NAME} version 1 (challenger)" in capsys.readouterr().err


def test_a_model_name_may_hold_an_apostrophe(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace(f"model_name: {NAME}", "model_name: ada's", 1))
    client = mlflow.MlflowClient(Store.open(load_params().mlflow, project).uri)
    client.create_registered_model("ada's")
    client.create_model_version("ada's", str(project / "nowhere"), tags={"git_commit": "abc123"})
    assert "git commit abc123" in lines(capsys, "--model", "1")


@pytest.mark.parametrize("call", ["MlflowClient.get_model_version", "search_runs"])
def test_a_registry_that_fails_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise mlflow.MlflowException("no route\nto host")

    register_version(project)
    monkeypatch.setattr(f"mlflow.{call}", failing)
    assert main(["lineage", "--model", "1"]) == 1
    err = capsys.readouterr().err
    assert f"mlflow.tracking_uri sqlite:///{project}/mlflow.db: no route to host" in err


def test_models_in_the_storage_are_known_as_well(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = project / "store"
    for folder in ("data", "runs", "models"):
        shutil.copytree(project / folder, store / folder)
    shutil.rmtree(project / "runs")
    shutil.rmtree(project / "models/dam")
    (store / "runs/train_dam-3/model/card.json").write_text("no card")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace('  root: ""', f"  root: {store}", 1))
    out = lines(capsys, "ada")
    assert f"codebook-1 ({store}/runs/codebook-1/model): on this face" in out
    assert f"train_dam-3 ({store}/models/dam): on this face" in out
    assert "fusion-2 (models/prior): on this face" in out
    assert out.count("fusion-2") == 1


@pytest.mark.slow
def test_a_bucket_is_walked_and_no_copy_of_a_shard_stays(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = tmp_path / "copies"
    monkeypatch.setenv("CFPP_CACHE", str(copies))
    with s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = move_to_bucket(project)
        for name in names_under(project / "runs"):
            copy(project / "runs" / name, bucket / "runs" / name)
        shutil.rmtree(project / "runs")
        out = lines(capsys, "ada")
        damaged = tmp_path / "damaged"
        damaged.write_bytes(b"no tar" * 999)
        copy(damaged, bucket / "data/codes/train/00000.tar")
        assert main(["lineage", "ada"]) == 1
    assert f"codebook-1 ({bucket}/runs/codebook-1/model): on this face" in out
    assert "train_dam-3 (models/dam): on this face" in out
    assert f"{bucket}/data/codes/train/00000.tar: " in (err := capsys.readouterr().err)
    assert "cfpp-" not in err
    assert not copies.exists()


@pytest.mark.slow
def test_the_cards_in_a_versions_package_tell_where_no_tag_does(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = load_params()
    store = Store.open(params.mlflow, project)
    run = store.start_stage("register", store.start_parent("p", params, {}), {})
    try:
        tags = lineage(params, project)
        register(log_package(write_models(project / "other"), PARTS, tags), NAME, tags)
    finally:
        run.end("FINISHED")
    sha256 = hashlib.sha256((project / "other/dam/model.safetensors").read_bytes()).hexdigest()
    assert f"dam             dam, 1 steps, sha256 {sha256[:12]}" in lines(capsys, "--model", "1")
    assert "unknown of prior, dam, tgrn" in lines(capsys, "ada")

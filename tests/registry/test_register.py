"""The register stage in a project of tiny models."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from cfpp.config import load_params
from cfpp.lineage import lineage
from pipelines import register
from pipelines.session import stage_session
from tests.tiny_models import SIZE, write_models

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Models and an evaluation, but no shards: the pictures to check come from a generator."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    write_models(tmp_path / "models")
    (tmp_path / "reports").mkdir()
    figures = {"psnr": {"mean": 24.125, "low": 24.0, "high": 24.5}, "lpips": {"mean": None}}
    differences = {"out-id": {"psnr": {"mean": 0.5}}}
    summary = {"pictures": {"out": figures}, "differences": differences, "alignment": {"mean": 0.3}}
    (tmp_path / "reports/metrics.json").write_text(json.dumps(summary))
    (tmp_path / "data/shards").mkdir(parents=True)
    (tmp_path / "data/shards/manifest.parquet").write_bytes(b"faces")
    (tmp_path / "dvc.lock").write_text("locked")
    monkeypatch.setenv("CFPP_GIT_COMMIT", "c" * 40)
    pictures = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    faces = {"lq": pictures, "id": pictures[::-1], "gp": 255 - pictures}
    monkeypatch.setattr(register, "held_out_faces", lambda storage: faces)
    monkeypatch.setattr("pipelines.session.find_owner", lambda: None)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    mlflow.set_tracking_uri(None)


def run() -> dict[str, Any]:
    with stage_session("register", load_params(), ray=False) as session:
        return register.register_restorer(session)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_only_a_version_that_restores_as_the_models_do_becomes_challenger(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run()
    assert record == json.loads((project / "reports/registered.json").read_text())
    assert (record["version"], record["verified_pictures"], record["size"]) == ("1", 2, SIZE)
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    name = record["name"]
    version = client.get_model_version_by_alias(name, "challenger")
    assert str(version.version) == "1"
    assert version.tags["verified"] == "2"
    assert version.tags["eval.out.psnr"] == "24.125"
    assert version.tags["eval.out-id.psnr"] == "0.5"
    assert "eval.out.lpips" not in version.tags  # not computed is not a number
    assert version.tags["parent_run"] == record["parent_run_id"]
    pinned = lineage(load_params(), project)
    assert set(pinned) == {"git_commit", "params_hash", "data_manifest_sha", "dvc_lock_md5"}
    assert {name: version.tags[name] for name in pinned} == pinned
    assert record["detector"] is None
    assert client.get_run(record["run_id"]).data.metrics["out.psnr"] == 24.125

    class Other:
        def predict(self, pictures: np.ndarray) -> np.ndarray:
            return pictures

    monkeypatch.setattr(register, "load_package", lambda uri: Other())
    with pytest.raises(register.RegisterError, match="does not restore as"):
        run()
    assert str(client.get_model_version_by_alias(name, "challenger").version) == "1"
    assert client.get_model_version(name, "2").tags["verified"] == "failed"
    assert json.loads((project / "reports/registered.json").read_text())["version"] == "1"

    (project / "reports/metrics.json").unlink()
    with pytest.raises(register.RegisterError, match="run the evaluate stage first"):
        run()
    versions = client.search_model_versions(f"name = '{name}'")
    assert len(versions) == 2


def test_a_restorer_of_another_priors_pictures_takes_pairs(project: Path) -> None:
    write_models(project / "models", prior_kind="folder")
    shutil.rmtree(project / "models" / "prior")  # it is not needed
    record = run()
    assert record["verified_pictures"] == 2
    model = register.load_package(record["model_uri"])
    faces = register.held_out_faces(project)
    pairs = np.stack([faces["id"], faces["gp"]], axis=1)
    expected = register.Restorer.load(project / "models").fuse(faces["id"], faces["gp"])
    np.testing.assert_array_equal(model.predict(pairs), expected)
    with pytest.raises(mlflow.MlflowException):
        model.predict(faces["lq"])


def test_the_face_detector_goes_along_where_there_is_one(project: Path, shared: Path) -> None:
    text = (project / "params.yaml").read_text()
    named = text.replace('weights:\n  root: ""', f"weights:\n  root: {shared / 'weights'}")
    (project / "params.yaml").write_text(named)
    record = run()
    assert record["detector"] == "detection_mobilenet0.25_Final.pth"
    model = register.load_package(record["model_uri"])
    grey = np.full((1, 40, 90, 3), 128, np.uint8)
    np.testing.assert_array_equal(model.predict(grey, params={"aligned": False}), grey)

    models = project / "models"
    write_models(models, prior_kind="folder")
    assert run()["detector"] is None  # nothing restores what it would find

"""The project's folder, in good and in bad states."""

import hashlib
import subprocess
import time
from pathlib import Path

import pytest

from cfpp import storage
from cfpp.health import project
from cfpp.health.finding import Level
from cfpp.models.catalogue import PFLD
from cfpp.models.external import ExternalFile
from cfpp.storage import S3Path, names_under
from tests.health.altered import PARAMS_FILE, params_with
from tests.s3 import BUCKET, S3Server


def test_a_typo_in_params_is_named(tmp_path: Path) -> None:
    finding, params = project.check_params(PARAMS_FILE)
    assert finding.level is Level.OK
    assert params is not None
    wrong = tmp_path / "params.yaml"
    wrong.write_text(PARAMS_FILE.read_text().replace("batch_size: 16", "batchsize: 16", 1))
    finding, params = project.check_params(wrong)
    assert (finding.level, params) == (Level.PROBLEM, None)
    assert "batchsize" in finding.message
    finding, _ = project.check_params(tmp_path / "none.yaml")
    assert "project's folder" in finding.remedy


def test_the_faces_of_a_folder_are_counted_and_a_missing_one_is_named(tmp_path: Path) -> None:
    finding, count = project.check_data(params_with(), tmp_path)
    assert (finding.level, count) == (Level.OK, 120 * 4)
    faces = params_with(data__source="folder", data__folder="faces")
    finding, count = project.check_data(faces, tmp_path)
    assert (finding.level, count) == (Level.PROBLEM, None)
    assert str(tmp_path / "faces") in finding.message
    (tmp_path / "faces/deep").mkdir(parents=True)
    (tmp_path / "faces/notes.txt").touch()
    assert "holds no picture" in project.check_data(faces, tmp_path)[0].message
    for name in ("a.JPG", "deep/b.png"):
        (tmp_path / "faces" / name).touch()
    finding, count = project.check_data(faces, tmp_path)
    assert (finding.level, count) == (Level.OK, 2)
    elsewhere = params_with(data__source="folder", data__folder="ftp://faces")
    assert project.check_data(elsewhere, tmp_path)[0].level is Level.PROBLEM


def test_what_the_prior_is_made_from(tmp_path: Path) -> None:
    assert project.check_checkpoint(params_with(), tmp_path).message == "the embedded one"
    official = params_with(prior__source="checkpoint", prior__checkpoint="codeformer.pth")
    assert project.check_checkpoint(official, tmp_path).level is Level.PROBLEM
    (tmp_path / "codeformer.pth").touch()
    assert project.check_checkpoint(official, tmp_path).level is Level.OK
    folders = dict.fromkeys(("prior__lq_folder", "prior__id_folder", "prior__gp_folder"), "pictures")
    other = params_with(prior__kind="folder", **folders)
    assert "prior.lq_folder" in project.check_checkpoint(other, tmp_path).message


def test_storage_is_probed_and_left_as_it_was(tmp_path: Path) -> None:
    assert project.check_storage(params_with(), tmp_path).level is Level.OK
    later = project.check_storage(params_with(storage__root="not/yet"), tmp_path)
    assert later.level is Level.OK
    assert "will be made" in later.message
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("no folder")
    for root in ("file", "file/below", "ftp://server/x", "s3://"):
        found = project.check_storage(params_with(storage__root=root), tmp_path)
        assert found.level is Level.PROBLEM, root


def test_a_bucket_is_reached_or_it_is_named_why_not(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    assert project.check_storage(params_with(storage__root=f"s3://{BUCKET}/p"), tmp_path).level is Level.OK
    assert names_under(S3Path(BUCKET)) == []  # the probe is gone
    missing = project.check_storage(params_with(storage__root="s3://no-such-bucket/p"), tmp_path)
    assert "no such bucket" in missing.message
    with storage.replacing(S3Path(BUCKET) / "in/a.png") as path:
        path.write_bytes(b"")
    there = params_with(data__source="folder", data__folder=f"s3://{BUCKET}/in")
    assert project.check_data(there, tmp_path)[1] == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    start = time.monotonic()
    for found in (
        project.check_data(there, tmp_path)[0],
        project.check_storage(params_with(storage__root=f"s3://{BUCKET}/p"), tmp_path),
    ):
        assert found.level is Level.PROBLEM
        assert "http://127.0.0.1:1 does not answer" in found.message
    assert time.monotonic() - start < project.PATIENCE


def test_weights_are_good_damaged_or_missing(tmp_path: Path) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    known = [ExternalFile(f"{name}.pth", digest, name, url=f"http://x/{name}") for name in ("a", "b", "c")]
    folder = params_with(weights__root="w")
    [found] = project.check_weights(folder, tmp_path, known)
    assert found.level is Level.PROBLEM
    assert "is no folder" in found.message
    (tmp_path / "w").mkdir()
    (tmp_path / "w/a.pth").write_bytes(content)
    [found] = project.check_weights(folder, tmp_path, known)
    assert found.level is Level.OK
    assert f"1 good in {tmp_path / 'w'}, 2 not there" in found.message
    (tmp_path / "w/b.pth").write_bytes(content[:3])
    damaged, found = project.check_weights(folder, tmp_path, known)
    assert (damaged.level, found.level) == (Level.PROBLEM, Level.OK)
    assert damaged.remedy == "run `cfpp weights fetch b.pth`"
    (tmp_path / "w" / PFLD[0].name).write_bytes(b"damaged")
    assert "by hand" in project.check_weights(folder, tmp_path, PFLD)[0].remedy
    [found] = project.check_weights(params_with(), tmp_path)
    assert found.level is Level.OK


def test_weights_that_a_training_would_stop_for_are_a_problem(tmp_path: Path) -> None:
    findings = project.check_weights(params_with(train_tgrn__embedding="squeeze"), tmp_path)
    assert [finding.level for finding in findings] == [Level.OK, Level.PROBLEM]
    assert "cfpp weights fetch squeezenet1_1-b8a52dc0.pth" in findings[1].remedy
    photographs = params_with(
        train_tgrn__identity_weight=1.0,
        data__source="folder",
        data__folder="faces",
        weights__root=str(tmp_path),
    )
    findings = project.check_weights(photographs, tmp_path)
    assert [finding.message for finding in findings][1] == "train_tgrn.identity_weight: 1"


def test_a_detector_that_is_missing_or_damaged(tmp_path: Path) -> None:
    assert project.check_detector(params_with(), tmp_path).level is Level.OK
    here = params_with(weights__root=str(tmp_path))
    assert project.check_detector(here, tmp_path).level is Level.WARNING
    (tmp_path / "detection_mobilenet0.25_Final.pth").write_bytes(b"damaged")
    assert project.check_detector(here, tmp_path).level is Level.PROBLEM


def test_a_good_detector_is_named(tmp_path: Path, shared: Path) -> None:
    good = project.check_detector(params_with(weights__root=str(shared / "weights")), tmp_path)
    assert good.level is Level.OK
    assert "RetinaFace" in good.message


def test_git_and_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = project.check_git(tmp_path)
    assert "no git repository" in found.message
    for command in (
        ["init", "-q"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "start", "--allow-empty"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert project.check_git(tmp_path).remedy == "run `dvc init`"
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    assert project.check_git(tmp_path).level is Level.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not on PATH" in project.check_git(tmp_path).message


def test_telemetry_that_is_on_is_named(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    config = tmp_path / ".dvc/config"
    config.write_text("[core]\n    analytics = false\n")
    assert project.check_telemetry(tmp_path, {}).level is Level.OK
    assert project.check_telemetry(tmp_path, {"RAY_USAGE_STATS_ENABLED": "0"}).level is Level.OK
    for variable in ("RAY_USAGE_STATS_ENABLED=1", "MLFLOW_DISABLE_TELEMETRY=false", "DVC_NO_ANALYTICS=0"):
        found = project.check_telemetry(tmp_path, dict([variable.split("=")]))
        assert found.level is Level.WARNING
        assert variable in found.message
    config.write_text("[core]\n    autostage = false\n")
    assert "core.analytics" in project.check_telemetry(tmp_path, {}).message

"""Parent and stage runs in a store on disk."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from cfpp.config import MlflowParams
from cfpp.registry.runs import KILLED, Store, absolute_uri, close_parent, flatten

PARAMS = MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name="m")


@dataclasses.dataclass(frozen=True)
class Section:
    steps: int = 5
    name: str = ""
    milestones: tuple[int, ...] = (1, 2)


def test_only_a_relative_sqlite_path_is_made_absolute(tmp_path: Path) -> None:
    assert absolute_uri("sqlite:///mlflow.db", tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri("sqlite:////var/mlflow.db", tmp_path) == "sqlite:////var/mlflow.db"
    assert absolute_uri("http://tracking:5000", tmp_path) == "http://tracking:5000"


def test_flatten_gives_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_a_kill_while_the_database_is_made_leaves_none_that_mlflow_cannot_open(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, mlflow.store.db.utils as utils\n"
        "from tests.registry.test_runs import PARAMS, Store\n"
        "utils._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Store.open(PARAMS, pathlib.Path('.'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL  # when its tables are half made
    assert not (tmp_path / "mlflow.db").exists()
    [left] = tmp_path.glob("*.mlflow.db.tmp")
    assert left.stat().st_size > 0
    store = Store.open(PARAMS, tmp_path)
    try:
        assert mlflow.MlflowClient(store.uri).get_experiment(store.experiment_id).name == "faces"
    finally:
        mlflow.set_tracking_uri(None)


def test_runs_are_nested_and_closed_with_what_they_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(PARAMS, tmp_path)
    assert Store.open(PARAMS, tmp_path) == store
    parent = store.start_parent("dvc repro", Section(), {"git_commit": "abc"})
    run = store.start_stage("shard", parent, {"git_commit": "abc"})
    try:
        run.log_params({"data": {f"k{i}": i for i in range(130)}})  # more than one batch of the store
        run.log_metrics({"faces": np.int64(12)})
        (tmp_path / "note.txt").write_text("hello")
        run.log_artifact(tmp_path / "note.txt", "notes")
        run.log_image("sheet", np.zeros((4, 4, 3), np.uint8))
    finally:
        run.end("FINISHED")
    client = mlflow.MlflowClient(store.uri)
    orphan = client.create_run(store.experiment_id, tags={"mlflow.parentRunId": parent}).info.run_id
    close_parent(store.uri, parent, "FAILED")

    stage = client.get_run(run.run_id)
    assert stage.data.tags["mlflow.parentRunId"] == parent
    assert stage.data.tags["stage"] == "shard"
    assert stage.data.params["data.k129"] == "129"
    assert stage.data.metrics["faces"] == 12.0
    assert {a.path for a in client.list_artifacts(run.run_id)} == {"notes", "pictures"}
    assert (tmp_path / "mlartifacts").is_dir()
    assert client.get_run(parent).data.params == {"steps": "5", "milestones": "[1, 2]"}
    statuses = [client.get_run(i).info.status for i in (run.run_id, parent, orphan)]
    assert statuses == ["FINISHED", "FAILED", KILLED]

    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "mlflow.db").rename(moved / "mlflow.db")
    Store.open(PARAMS, moved)
    assert "was the project folder moved" in caplog.text

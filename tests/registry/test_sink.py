"""The sink that workers write to: it arrives, it retries, it gives up without a fuss."""

import logging
import pickle
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from cfpp.registry.sink import MlflowSink, RunSink


class Locked:
    """A client whose store is locked for the first few writes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0
        self.written: list[Any] = []

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise mlflow.MlflowException("database is locked")
        self.written += metrics

    def log_image(self, run_id: str, picture: np.ndarray, key: str, step: int) -> None:
        raise OSError("disk full")


def test_points_survive_a_store_that_is_locked_for_a_while() -> None:
    client = Locked(failures=2)
    tries = iter([OSError("no server"), client])

    def connect() -> Locked:
        found = next(tries)
        if isinstance(found, OSError):
            raise found
        return found

    sink = RunSink(connect, "run", delays=(0.0, 0.0, 0.0))
    sink.log(7, {"loss": np.float32(0.5), "psnr": 24})
    assert [(m.key, m.value, m.step) for m in client.written] == [("loss", 0.5, 7), ("psnr", 24.0, 7)]
    assert sink.lost == 0
    assert client.calls == 3


def test_a_store_that_stays_away_costs_points_but_not_the_training(caplog: pytest.LogCaptureFixture) -> None:
    sink = RunSink(lambda: Locked(failures=99), "run", delays=(0.0, 0.0))
    with caplog.at_level(logging.WARNING):
        sink.log(7, {"loss": 0.5})
        sink.image(7, "faces", np.zeros((4, 4, 3), np.uint8))
    assert sink.lost == 2
    assert "step 7" in caplog.text
    assert "database is locked" in caplog.text
    assert "disk full" in caplog.text


def test_a_pickled_sink_writes_to_the_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    sink = pickle.loads(pickle.dumps(MlflowSink(uri, run_id))).open()
    sink.log(1, {"loss": 2.0})
    sink.log(2, {"loss": 1.0, "nan": float("nan")})
    sink.image(2, "faces", np.full((8, 8, 3), 200, np.uint8))
    assert sink.lost == 0
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    assert [a.path for a in client.list_artifacts(run_id)] == ["images"]

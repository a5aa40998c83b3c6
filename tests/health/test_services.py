"""Ray and the tracking store, with what answers, what does not, and what is something else."""

import base64
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

from cfpp.config import MlflowParams
from cfpp.health import services
from cfpp.health.finding import Level
from cfpp.registry.runs import Store
from tests.health.altered import params_with
from tests.tiny_models import write_models

CLOSED = "127.0.0.1:1"


class Handler(BaseHTTPRequestHandler):
    """Answers as a Ray dashboard does, and /health as an MLflow server does, or as something else."""

    health = (200, b"OK")
    version = b'{"version": "4", "ray_version": "2.58.0", "ray_commit": "", "session_name": ""}'
    user = ""  # whom to answer; anybody

    def do_GET(self) -> None:
        status, text = self.health if self.path == "/health" else (200, self.version)
        if (
            self.user
            and self.headers["Authorization"] != f"Basic {base64.b64encode(self.user.encode()).decode()}"
        ):
            status, text = 401, b""
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ssh() -> Iterator[str]:
    """A port that greets as an SSH server does."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.recv(1)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_cluster_that_answers_and_one_that_does_not(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.check_ray(None, start=False).level is Level.OK
    found = services.check_ray(f"http://{address}", start=False)
    assert (found.level, "a cluster answers" in found.message) == (Level.OK, True)
    for port in (address, f"ray://{address}"):  # of what listens there nothing is known
        found = services.check_ray(port, start=False)
        assert found.level is Level.OK
        assert "the port is open" in found.message
        assert "answers" not in found.message
    monkeypatch.setattr(Handler, "version", b'{"version": "4"}')
    found = services.check_ray(f"http://{address}", start=False)
    assert found.level is Level.PROBLEM
    assert "no dashboard of Ray's" in found.message
    for bad in (CLOSED, f"http://{CLOSED}", f"http://{address}:x"):
        found = services.check_ray(bad, start=False)
        assert found.level is Level.PROBLEM
        assert bad in found.message


def test_a_port_that_speaks_no_http_is_said_to(ssh: str, tmp_path: Path) -> None:
    [tracking] = services.check_tracking(params_with(mlflow__tracking_uri=f"http://{ssh}"), tmp_path)
    for found in (services.check_ray(f"http://{ssh}", start=False), tracking):
        assert found.level is Level.PROBLEM
        assert "speaks no HTTP (BadStatusLine: SSH-2.0-OpenSSH_9.6)" in found.message
    [tracking] = services.check_tracking(params_with(mlflow__tracking_uri="http://127.0.0.1:port"), tmp_path)
    assert "'port'" in tracking.message


def test_a_user_and_password_are_sent_and_not_shown(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "check_champion", lambda params, root: services.ok("champion", "not asked"))
    monkeypatch.setattr(Handler, "user", "me:se@ret")
    for user, level in (("me:se%40ret", Level.OK), ("me:secret", Level.PROBLEM)):
        uri = f"http://{user}@{address}"
        tracking = services.check_tracking(params_with(mlflow__tracking_uri=uri), tmp_path)[0]
        for found in (services.check_ray(uri, start=False), tracking):
            assert found.level is level
            assert f"http://***@{address}" in found.message
            assert user not in found.message
    database = params_with(mlflow__tracking_uri=f"postgresql://me:secret@{CLOSED}/faces")
    [found] = services.check_tracking(database, tmp_path)
    assert f"postgresql://***@{CLOSED}/faces" in found.message
    assert "secret" not in found.message


def test_a_local_ray_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_LOCAL_RAY", "raise OSError('no room in /tmp')")
    found = services.check_ray(None, start=True)
    assert found.level is Level.PROBLEM
    assert "OSError: no room in /tmp" in found.message


@pytest.mark.slow
@pytest.mark.ray
def test_a_local_ray_starts_and_runs_a_task() -> None:
    found = services.check_ray(None, start=True)
    assert found.level is Level.OK, found.message
    assert "ran a task" in found.message


def test_a_tracking_server(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "check_champion", lambda params, root: services.ok("champion", "not asked"))
    server = params_with(mlflow__tracking_uri=f"http://{address}")
    assert [finding.level for finding in services.check_tracking(server, tmp_path)] == [Level.OK] * 2
    for health, message in (((200, b"<html>"), "no MLflow server"), ((401, b""), "answers 401")):
        monkeypatch.setattr(Handler, "health", health)
        [found] = services.check_tracking(server, tmp_path)
        assert found.level is Level.PROBLEM
        assert message in found.message
    [found] = services.check_tracking(params_with(mlflow__tracking_uri=f"http://{CLOSED}"), tmp_path)
    assert "no tracking server answers there" in found.message


def test_a_database_and_its_champion(tmp_path: Path) -> None:
    params = params_with()
    name = params.mlflow.model_name
    [found] = services.check_tracking(params, tmp_path)
    assert found.level is Level.OK
    assert "will be made" in found.message
    assert list(tmp_path.iterdir()) == []

    store = Store.open(
        MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="e", model_name=name), tmp_path
    )
    try:
        good, champion = services.check_tracking(params, tmp_path)
        assert "schema up to date" in good.message
        assert champion.level is Level.WARNING
        assert "dvc repro" in champion.remedy
        client = mlflow.MlflowClient(store.uri)
        client.create_registered_model(name)
        parts = write_models(tmp_path / "package/artifacts")
        client.create_model_version(name, str(tmp_path / "package"))
        champion = services.check_champion(params, tmp_path)
        assert f"none; the newest is {name} version 1" in champion.message
        client.set_registered_model_alias(name, "champion", "1")
        champion = services.check_champion(params, tmp_path)
        assert champion.level is Level.OK
        assert champion.message == f"{name} version 1 (champion)"

        shutil.rmtree(parts / "prior")
        assert services.check_champion(params, tmp_path).level is Level.OK  # no tag asks for it
        client.set_model_version_tag(name, "1", "prior.sha256", "0" * 64)
        champion = services.check_champion(params, tmp_path)
        assert champion.level is Level.PROBLEM
        assert "those of prior cannot be fetched" in champion.message
        shutil.rmtree(tmp_path / "package")
        client.delete_model_version_tag(name, "1", "prior.sha256")
        champion = services.check_champion(params, tmp_path)
        assert "those of dam, tgrn cannot be fetched" in champion.message
        assert "python -m pipelines.rollback --reason" in champion.remedy
    finally:
        mlflow.set_tracking_uri(None)

    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
    [found] = services.check_tracking(params, tmp_path)
    assert found.level is Level.WARNING
    assert "mlflow db upgrade" in found.remedy


@pytest.mark.parametrize("uri", ["nonsense", "nosuch://x", "sqlite:///none/mlflow.db", "sqlite:///text"])
def test_an_unknown_tracking_uri_is_a_problem(uri: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be read as one " * 40)
    [found] = services.check_tracking(params_with(mlflow__tracking_uri=uri), tmp_path)
    assert found.level is Level.PROBLEM
    assert found.remedy


def test_an_empty_database_is_not_mlflows(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table t (x)")
    [found] = services.check_tracking(params_with(), tmp_path)
    assert "no MLflow database" in found.message

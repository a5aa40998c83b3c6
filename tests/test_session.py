"""The session that the stages of one `dvc repro` share, with a script named dvc in the owner's place."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.host import Process, SessionFile, SessionState, _is_dvc
from pipelines.session import SessionError, _Shared

PROJECT = Path(__file__).parents[1]

STAGE = """
import json, os, sys, time
from pathlib import Path
from cfpp.config import load_params
from pipelines.session import stage_session

stage, uses_ray, ending = sys.argv[1], sys.argv[2] == "ray", sys.argv[3]
with stage_session(stage, load_params(), ray=uses_ray) as session:
    record = {"parent": session.parent_run_id, "run": session.run_id, "uri": session.tracking_uri}
    if uses_ray:
        import ray

        @ray.remote(num_cpus=1)
        def work(sink):
            import cfpp.config, pipelines
            sink.open().log(3, {"loss": 0.25})
            return os.getpid()

        record["address"] = ray.get_runtime_context().gcs_address
        record["worker"] = ray.get(work.remote(session.sink))
    session.log_metrics({"answer": 42})
    Path(f"{stage}.json").write_text(json.dumps(record))
    if ending == "fail":
        raise ValueError("shard 3 is broken")
    while ending == "hang":
        time.sleep(0.2)
"""

DVC = """
import subprocess, sys
for stage in sys.argv[1:]:
    done = subprocess.run([sys.executable, "stage.py", *stage.split(":")])
    if done.returncode:
        sys.exit(done.returncode)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """An empty project with the params of this one and a fake dvc; what it started is ended."""
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    (tmp_path / "stage.py").write_text(textwrap.dedent(STAGE))
    (tmp_path / "dvc").write_text(textwrap.dedent(DVC))
    yield tmp_path
    for path in tmp_path.glob(".cfpp/session-*.json"):
        state = SessionState.parse(path.read_text())
        for process in filter(None, [state.host, *state.running.values()]):
            if process.alive():
                os.kill(process.pid, signal.SIGTERM)


def start(project: Path, *words: str) -> "subprocess.Popen[bytes]":
    # a running `dvc repro` of the real project must not be taken for the owner: the nearest one counts
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(PROJECT)
    return subprocess.Popen([sys.executable, *words], cwd=project, env=environment)


def wait_for(holds: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def runs(project: Path) -> dict[str, Any]:
    """MLflow runs of the project by name."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("codeformer-plus-plus")
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def sessions(project: Path) -> list[Path]:
    return list((project / ".cfpp").glob("session-*.json"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_stages_share_one_ray_and_one_parent_run_until_the_owner_ends(project: Path) -> None:
    owner = start(project, "dvc", "shard:ray:end", "register:none:end", "pair:ray:hang")
    wait_for(lambda: (project / "pair.json").exists() or owner.poll() is not None, 300, "the third stage")
    assert owner.poll() is None, "a stage failed"
    first, second, third = (
        json.loads((project / f"{name}.json").read_text()) for name in ("shard", "register", "pair")
    )
    assert first["address"] == third["address"]
    assert first["parent"] == second["parent"] == third["parent"]
    assert len({first["run"], second["run"], third["run"]}) == 3
    (path,) = sessions(project)
    state = SessionState.parse(path.read_text())
    assert state.host is not None
    stage = state.running["pair"]
    raylets = [p for p in psutil.Process(state.host.pid).children(recursive=True) if p.name() == "raylet"]
    assert len(raylets) == 1

    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_for(lambda: not stage.alive(), 15, "the orphaned stage is ended")
    wait_for(lambda: not sessions(project), 90, "the host closes the session")
    wait_for(lambda: state.host and not state.host.alive(), 30, "the host ends")
    assert not raylets[0].is_running()

    recorded = runs(project)
    assert set(recorded) == {"dvc repro", "shard", "register", "pair"}
    assert recorded["dvc repro"].info.status == "KILLED"
    assert recorded["shard"].info.status == recorded["register"].info.status == "FINISHED"
    assert recorded["pair"].info.status != "RUNNING"
    shard = recorded["shard"]
    assert shard.data.tags["mlflow.parentRunId"] == recorded["dvc repro"].info.run_id
    assert shard.data.metrics["loss"] == 0.25  # written by a Ray worker
    assert shard.data.metrics["answer"] == 42
    assert any(name.startswith("system/") for name in shard.data.metrics)
    assert shard.data.params["data.shard_size"] == "40"
    assert "prior.network.width" not in shard.data.params
    assert recorded["dvc repro"].data.params["prior.network.width"] == "32"
    assert len(shard.data.tags["params_hash"]) == 64


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_failed_stage_fails_its_run_and_the_parent_run(project: Path) -> None:
    owner = start(project, "dvc", "evaluate:none:fail", "register:none:end")
    assert owner.wait(150) != 0
    wait_for(lambda: not sessions(project), 90, "the host closes the session")
    recorded = runs(project)
    assert set(recorded) == {"dvc repro", "evaluate"}
    assert recorded["dvc repro"].info.status == recorded["evaluate"].info.status == "FAILED"
    assert "shard 3 is broken" in recorded["evaluate"].data.tags["error"]
    assert list((project / ".cfpp").glob("host-*.log")), "the log of a failed session is kept"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_stage_by_hand_has_its_own_parent_run_and_no_host(project: Path) -> None:
    # /bin/sh between the two, as under make
    stage = start(project, "stage.py", "evaluate", "none", "end")
    assert stage.wait(150) == 0
    assert not sessions(project)
    recorded = json.loads((project / "evaluate.json").read_text())
    by_id = {run.info.run_id: run.info for run in _all_runs(project)}
    assert set(by_id) == {recorded["run"], recorded["parent"]}
    assert {info.status for info in by_id.values()} == {"FINISHED"}
    assert recorded["uri"] == f"sqlite:///{project}/mlflow.db"


def _all_runs(project: Path) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("codeformer-plus-plus")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_status_of_the_parent_run_is_the_worst_of_its_stages(tmp_path: Path) -> None:
    me = Process.of(os.getpid())
    gone = Process(me.pid, me.started - 100)  # the pid was given to another process
    assert me.alive()
    assert not gone.alive()
    assert SessionState(me, ended={"shard": "FINISHED"}).status() == "FINISHED"
    assert SessionState(me, ended={"shard": "FINISHED", "pair": "KILLED"}).status() == "KILLED"
    assert SessionState(me, ended={"shard": "KILLED", "pair": "FAILED"}).status() == "FAILED"
    assert SessionState(me, running={"pair": me}).status() == "KILLED"  # it outlived dvc
    assert SessionState(me, running={"pair": gone}).status() == "FAILED"  # it died without a word


def test_session_file_survives_a_round_trip_and_concurrent_edits(tmp_path: Path) -> None:
    me = Process.of(os.getpid())
    file = SessionFile.of(me, tmp_path)
    script = f"""
        from pathlib import Path
        from pipelines.host import Process, SessionFile
        import sys
        me = Process({me.pid}, {me.started!r})
        for number in range(25):
            with SessionFile(Path({str(file.path)!r})).edit(me) as state:
                state.ended[f"{{sys.argv[1]}}-{{number}}"] = "FINISHED"
    """
    (tmp_path / "edit.py").write_text(textwrap.dedent(script))
    editors = [start(tmp_path, "edit.py", name) for name in "abc"]
    assert [editor.wait(30) for editor in editors] == [0, 0, 0]
    state = file.read()
    assert state is not None
    assert state.owner == me
    assert len(state.ended) == 75


@pytest.mark.parametrize(
    ("command", "is_dvc"),
    [
        (["/v/bin/python3", "/v/bin/dvc", "repro"], True),
        (["/v/bin/python3.11", "-X", "dev", "-m", "dvc", "repro"], True),
        (["/usr/bin/dvc", "repro"], True),
        (["/bin/bash", "-c", "dvc repro"], False),
        (["vim", "/home/me/dvc"], False),
        (["python", "-m", "pipelines.shard"], False),
        ([], False),
    ],
)
def test_dvc_is_told_from_what_only_names_it(command: list[str], is_dvc: bool) -> None:
    assert _is_dvc(command) is is_dvc


def test_host_is_started_once_and_again_when_it_has_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = Process.of(os.getpid())
    dead = Process(me.pid, me.started - 100)
    hosts = iter([me, me])
    monkeypatch.setattr("pipelines.session.spawn", lambda file, owner: next(hosts))
    shared = _Shared(SessionFile.of(me, tmp_path), me)
    shared.enter("shard", wants_ray=False)
    shared.enter("evaluate", wants_ray=True)
    assert next(hosts) is me, "the second stage must not have started a host"
    with shared.file.edit(me) as state:
        assert state.wants_ray
        assert set(state.running) == {"shard", "evaluate"}
        state.host, state.ray_address, state.parent_run_id = dead, "127.0.0.1:1", "p"
    with pytest.raises(SessionError, match="host process died"):
        _Shared(SessionFile.of(dead, tmp_path), me).ray_address()
    hosts = iter([me])
    shared.enter("pair", wants_ray=True)
    state = shared.file.read()
    assert state is not None
    assert (state.host, state.ray_address, state.parent_run_id) == (me, None, "p")


def test_ray_that_does_not_start_is_reported_with_the_end_of_the_hosts_log(tmp_path: Path) -> None:
    me = Process.of(os.getpid())
    shared = _Shared(SessionFile.of(me, tmp_path), me)
    with shared.file.edit(me) as state:
        state.host, state.ray_error = me, "OSError: no space left on device"
    shared.file.log.write_text("first line\nraylet: cannot write /tmp/ray\n")
    with pytest.raises(SessionError, match="no space left") as caught:
        shared.ray_address()
    assert "raylet: cannot write /tmp/ray" in str(caught.value)
    with shared.file.edit(me) as state:
        state.ray_address = "192.0.2.1:6379"
    assert shared.ray_address() == "192.0.2.1:6379"

"""`retrain` with real processes and a real dvc, on a graph of quick stages: killed, failing, refused."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from cfpp.config import MlflowParams, load_params
from cfpp.registry.runs import Store
from pipelines.repro import end, marked, mend
from pipelines.retrain import find_reason
from pipelines.retrain_lock import LOCK
from pipelines.retrain_state import Finished, State, load
from tests.pipeline.project import REPOSITORY, Project, wait_for
from tests.pipeline.quick_graph import GATE, GRAPH

RETRAIN = ("python", "-m", "pipelines.retrain")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose graph is quick, with dvc set up."""
    project = Project(tmp_path_factory.mktemp("template"))
    folder = project.folder
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "pipelines" / "promote.py").write_text(GATE)
    shutil.copy(REPOSITORY / "tests/pipeline/quick_graph.py", folder / "graph.py")
    shutil.rmtree(folder / "tests")
    shutil.rmtree(folder / "docs")
    (folder / "faces").write_text("ada bob")
    (folder / "seconds").write_text("0.3")
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    shutil.copytree(template, tmp_path / "project")
    made = Project.__new__(Project)
    made.folder = tmp_path / "project"
    return made


def ledger(project: Project) -> list[str]:
    path = project.folder / "ledger"
    return path.read_text().splitlines() if path.exists() else []


def whole(project: Project) -> None:
    """One run has come to its end and left nothing behind."""
    state = load(project.folder)
    assert state.attempt is None
    assert state.child is None
    assert state.finished
    assert state.finished.manifest == hashlib.sha256((project.folder / "faces").read_bytes()).hexdigest()
    assert (project.folder / "champion").read_text() == state.finished.version
    assert project.json("reports/retrain.json")["decision"] == "promoted"
    assert not (project.folder / LOCK).exists()
    assert not [line for line in ledger(project) if line.endswith("overlap")]
    assert not list((project.folder / ".cfpp").glob("*.tmp"))
    assert marked(project.folder) == []


def test_one_start_runs_the_graph_and_the_gate_and_reports(project: Project) -> None:
    text = project.run(*RETRAIN, "--now")
    whole(project)
    assert "Running stage 'train'" in text  # dvc's output is seen
    assert [step["name"] for step in project.json("reports/retrain.json")["steps"]] == [
        "data", "repro", "gate", "report",
    ]  # fmt: skip
    assert "**promoted**" in (project.folder / "reports/retrain.md").read_text()
    assert "version 1" in text
    before = ledger(project)
    (project.folder / "gate").write_text("refused")
    text = project.run(*RETRAIN, "--now", code=3)
    assert ledger(project) == before  # nothing had changed: the gate alone was asked again
    assert "| metric | better |" in text
    assert load(project.folder).attempt is None


def test_a_failing_stage_is_named_the_champion_stays_and_the_next_start_goes_on(project: Project) -> None:
    (project.folder / "champion").write_text("0")
    (project.folder / "fail").write_text("shard")
    text = project.run(*RETRAIN, code=1)
    assert "stopped at data: stage shard: dvc repro shard ended with 255" in text
    assert load(project.folder).attempt is None
    (project.folder / "fail").write_text("train")
    text = project.run(*RETRAIN, "--now", code=1)
    assert "stopped at repro: stage train: dvc repro ended with 255" in text
    assert "the disk is full of holes" in text
    assert [log for log in (project.folder / ".cfpp").glob("retrain-*.log") if str(log) in text]
    assert (project.folder / "champion").read_text() == "0"
    (project.folder / "fail").unlink()
    text = project.run(*RETRAIN)
    assert "going on with the attempt" in text
    assert "at repro, where it had stopped: ReproError: stage train" in text
    assert ledger(project).count("shard end") == 1
    assert project.json("reports/retrain.json")["starts"] == 2
    whole(project)


def test_a_second_start_is_refused_and_sigterm_ends_the_graph_in_a_way_that_goes_on(project: Project) -> None:
    (project.folder / "seconds").write_text("5")
    # as a shell's & does: the graph must still be ended by SIGINT, and without waiting for force
    first = project.start("sh", "-c", f"trap '' INT; exec {' '.join(RETRAIN)} --now")
    wait_for(lambda: "shard begin" in ledger(project))
    text = project.run(*RETRAIN, "--now", code=4)
    assert f"another retrain is at work: process {first.pid} of " in text
    assert f"on {socket.gethostname()}, since " in text
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 130
    assert marked(project.folder) == []
    attempt = load(project.folder).attempt
    assert attempt
    assert (attempt.step, attempt.error) == ("repro", "interrupted")
    assert "shard end" not in ledger(project)
    (project.folder / "seconds").write_text("0.1")
    project.run(*RETRAIN)
    whole(project)


def test_a_second_interruption_ends_the_graph_by_force() -> None:
    deaf = ["bash", "-c", "trap '' INT; echo; sleep 60"]
    process = subprocess.Popen(deaf, start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    looks = iter([KeyboardInterrupt()])

    def alive() -> bool:
        for again in looks:
            raise again
        return process.poll() is None

    end(process.pid, alive)
    assert process.wait(5) == -signal.SIGKILL
    process.stdout.close()


def test_faces_that_come_while_the_gate_measures_are_a_reason_afterwards(project: Project) -> None:
    gate = project.folder / "pipelines/promote.py"
    more = 'Path("data/shards/manifest.parquet").write_bytes(b"cy")'
    gate.write_text(gate.read_text().replace("time.sleep(0.5)", more))
    project.run(*RETRAIN, "--now")
    assert (project.folder / "data/shards/manifest.parquet").read_bytes() == b"cy"
    whole(project)  # what is ticked off is what was trained on


def test_what_the_disk_refuses_is_said_and_the_next_start_goes_on(project: Project) -> None:
    for blocked, step in (("champion", "gate"), ("reports/retrain.md", "report")):
        (project.folder / blocked).mkdir(parents=True)
        text = project.run(*RETRAIN, "--now", code=1)
        assert "Traceback" not in text
        assert f"ERROR retrain: {'stopped at gate: ' if step == 'gate' else ''}[Errno 21]" in text
        attempt = load(project.folder).attempt
        assert attempt
        assert attempt.step == step
        (project.folder / blocked).rmdir()
    project.run(*RETRAIN)
    whole(project)


def test_an_orphaned_graph_is_waited_for_and_never_doubled(project: Project) -> None:
    (project.folder / "seconds").write_text("3")
    first = project.start(*RETRAIN, "--now")
    wait_for(lambda: "shard begin" in ledger(project))
    first.kill()
    first.wait()
    text = project.run(*RETRAIN)
    assert f"taking over the lock of process {first.pid}" in text
    assert "the dvc of an earlier start still runs" in text
    assert ledger(project).count("shard begin") == 1
    whole(project)


def test_orphaned_stages_of_a_killed_dvc_are_ended_before_the_graph_runs_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.folder / "seconds").write_text("100")
    first = project.start(*RETRAIN, "--now")
    wait_for(lambda: "shard begin" in ledger(project))
    left = marked(project.folder)
    first.kill()
    for process in left:
        if "dvc" in process.cmdline()[1:3]:
            process.kill()
    (project.folder / "seconds").write_text("0.1")
    code = "import pipelines.repro as r, pipelines.retrain as t; r.CLOSING = 1.0; t.main(['--now'])"
    text = project.run("python", "-c", code)
    assert "ending what an earlier start has left" in text
    whole(project)


def test_killed_at_random_moments_the_next_start_completes(project: Project) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    draw = random.Random(seed)
    for kill in range(3):
        process = project.start(*RETRAIN, "--now")
        time.sleep(draw.uniform(0.3, 7))
        if kill == 1:  # everything at once, as a machine does that loses its power
            for each in marked(project.folder):
                each.kill()
        process.kill()
        process.wait()
        champion = project.folder / "champion"
        assert not champion.exists() or champion.read_text() == "1", seed
        load(project.folder)
    project.run(*RETRAIN, "--now")
    whole(project)
    assert (project.folder / "champion").read_text() == "1" or "register end" in ledger(project)[:-1], seed


def test_what_a_killed_dvc_leaves_is_mended(project: Project) -> None:
    project.run(*RETRAIN, "--now")
    lock, rwlock = project.folder / "dvc.lock", project.folder / ".dvc/tmp/rwlock"
    whole_text = lock.read_text()
    mend(project.folder)
    lock.write_text(whole_text[: whole_text.rindex("path:") + 4])
    rwlock.write_text('{"write": {"/some')
    before = ledger(project)
    text = project.run(*RETRAIN, "--now")
    assert "cut short by a kill" in text
    assert ledger(project) == before
    assert lock.read_text() == whole_text
    # a process number that is somebody else's by now
    entry = {"pid": os.getpid(), "cmd": "dvc repro"}
    rwlock.write_text(json.dumps({"write": {str(project.folder / "models/m"): entry}, "read": {}}))
    (project.folder / "faces").write_text("ada bob cy")
    project.run(*RETRAIN, "--now")
    whole(project)
    # but a dvc that runs is left alone
    sleeper = subprocess.Popen(["bash", "-c", "exec -a dvc sleep 30"])
    try:
        wait_for(lambda: psutil.Process(sleeper.pid).cmdline()[:1] == ["dvc"])
        rwlock.write_text(json.dumps({"write": {"/x": {"pid": sleeper.pid, "cmd": "dvc repro"}}, "read": {}}))
        mend(project.folder)
        assert rwlock.exists()
    finally:
        sleeper.kill()


def test_a_cut_dvc_lock_that_is_kept_says_nothing_wrong(project: Project) -> None:
    """After a cut anywhere: what is kept is whole, but for entries at its end; else the copy is taken."""
    project.run(*RETRAIN, "--now")
    path = project.folder / "dvc.lock"
    text = path.read_text()
    yaml = YAML(typ="safe")
    stages = yaml.load(text)["stages"]
    ends = [place + 1 for place, letter in enumerate(text) if letter == "\n"]
    kept = []
    for cut in {*ends[:-1], *random.Random(0).sample(range(len(text)), 100)}:
        path.with_name(".cfpp").joinpath("dvc.lock").write_text(text)
        path.write_text(text[:cut])
        mend(project.folder)
        if (left := path.read_text()) == text:
            continue
        assert left == text[:cut]
        kept.append(cut)
        for name, stage in yaml.load(left)["stages"].items():
            for kind in ("deps", "outs"):
                for found, was in zip(stage.get(kind, []), stages[name].get(kind, []), strict=False):
                    assert (found["path"], found["md5"]) == (was["path"], was["md5"]), text[:cut]
    assert kept
    assert set(kept) <= set(ends)
    assert (project.folder / ".cfpp/dvc.lock.cut").exists()


def test_the_reasons_to_retrain(tmp_path: Path) -> None:
    import mlflow

    params = replace(
        load_params(REPOSITORY / "params.yaml"),
        mlflow=MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name="restorer"),
    )

    def reason(days: float = 0.0, state: State | None = None) -> tuple[str, str]:
        retrain = replace(params.retrain, max_age_days=days)
        return find_reason(replace(params, retrain=retrain), tmp_path, state or State())

    manifest = tmp_path / "data/shards/manifest.parquet"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"faces")
    sha = hashlib.sha256(b"faces").hexdigest()
    assert reason()[0] == "no version was ever registered"
    store = Store.open(params.mlflow, tmp_path)
    client = mlflow.MlflowClient(store.uri)
    client.create_registered_model("restorer")
    for number, data in enumerate(("0" * 64, sha)):
        client.create_model_version("restorer", f"file:///v{number}", tags={"data_manifest_sha": data})
    try:
        nothing, why_not = reason()
        assert nothing == ""
        assert re.match(r"data/shards is what restorer version 2 was made of, \d+ s ago", why_not)
        # after a refused or failed version, what the last finished attempt saw counts
        seen = State(finished=Finished("r7", time.time() - 3 * 86400, "0" * 64, "1", "refused"))
        assert reason(state=seen)[0] == "data/shards is not what the retraining r7 was made of"
        same = State(finished=replace(seen.finished, manifest=sha))
        assert reason(state=same)[1].startswith("data/shards is what the retraining r7 was made of, ")
        manifest.write_bytes(b"more faces")
        assert reason()[0] == "data/shards is not what restorer version 2 was made of"
        manifest.write_bytes(b"faces")
        # by age, of whatever came last
        assert reason(days=1e-9)[0].startswith("the last one is ")
        assert "; by age in 3.0 days" in reason(days=3, state=same)[1]
    finally:
        mlflow.set_tracking_uri(None)


# the lock

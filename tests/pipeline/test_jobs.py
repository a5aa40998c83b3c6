"""Stages as Ray jobs on a cluster of this machine, data in S3: sent, stopped, failing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobSubmissionClient

from cfpp.config import load_params
from cfpp.data.manifest import Manifest
from cfpp.profiles import apply_profile
from cfpp.storage import place_of
from cfpp.synthesis.faces import face_config_hash, face_spec, list_source, plan_faces
from cfpp.synthesis.restored import restored_config_hash, restored_spec
from cfpp.synthesis.shard_work import ShardTask, WorkerSpec, make_shard
from cfpp.synthesis.tars import plan_from
from pipelines.jobs import JobError, check_reachable
from pipelines.submit_retrain import STILL_RUNS, SubmitError, Submitter, connect
from tests.pipeline.project import REPOSITORY, Project
from tests.s3 import BUCKET, S3Server, free_port

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

_CARD = REPOSITORY / "cfpp/data/embedded/prior/card.json"
KNOWN_SEED = json.loads(_CARD.read_text())["config"]["people"]["seed"]

PARAMS = """
storage: {{root: "{storage}"}}
data: {{identities: {identities}, shots: 1, test_fraction: 0.25, val_fraction: 0.25, shard_size: 4}}
synthesize: {{variants: 1}}
mlflow: {{tracking_uri: "sqlite:///{folder}/mlflow.db"}}
"""


@dataclass(frozen=True)
class Cluster:
    """A Ray head on this machine: where jobs are submitted, and where drivers join."""

    jobs: str
    gcs: str


@pytest.fixture(scope="module")
def cluster(server: S3Server) -> Iterator[Cluster]:
    """`ray start --head`, as a user does; not `ray stop`, which would end other Rays of this machine."""
    port, dashboard = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets lie in it
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= server.environment | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Every port its own: another Ray of this machine has the usual ones.
    ports = {"port": port, "dashboard-port": dashboard}
    ports |= {name: free_port() for name in ("dashboard-agent-listen-port", "ray-client-server-port")}
    words = ["ray", "start", "--head", "--num-cpus=2", "--object-store-memory=200000000"]
    words += [f"--temp-dir={folder}", *(f"--{name}={number}" for name, number in ports.items())]
    try:
        subprocess.run(words, env=environment, check=True, capture_output=True, timeout=180)
        jobs = f"http://127.0.0.1:{dashboard}"
        deadline = time.monotonic() + 180
        while not _takes_jobs(jobs):
            assert time.monotonic() < deadline, "the head takes no jobs"
            time.sleep(1)
        yield Cluster(jobs, f"127.0.0.1:{port}")
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(folder in word for word in process.info["cmdline"] or []):
                with suppress(psutil.Error):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _takes_jobs(address: str) -> bool:
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint="true")
    except Exception:  # the head is not up yet
        return False
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.2)
    return True


def project_with(folder: Path, storage: str, identities: int = 16) -> Project:
    project = Project(folder)
    text = PARAMS.format(storage=storage, folder=folder, identities=identities)
    (folder / "test.yaml").write_text(text)
    apply_profile(folder / "test.yaml", folder / "params.yaml")
    (folder / "test.yaml").unlink()
    return project


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return project_with(tmp_path_factory.mktemp("remote"), f"s3://{BUCKET}/remote")


def test_every_way_of_running_a_stage_writes_the_same_data(
    remote: Project, cluster: Cluster, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From a shell, as the README of Ray says it; nothing comes back here but the log.
    submit = ["ray", "job", "submit", "--address", cluster.jobs, "--working-dir", ".", "--", "python", "-m"]
    assert "quarantined" in remote.run(*submit, "pipelines.shard")
    # Sent by the stage's own command, as dvc runs it: what dvc tracks comes back.
    sent = server.environment | {"RAY_ADDRESS": cluster.jobs}
    remote.run("python", "-m", "pipelines.prior", **sent)
    assert (remote.folder / "models/prior/model.safetensors").is_file()
    assert not (remote.folder / "data/restored").exists()
    text = remote.run("python", "-m", "pipelines.synthesize", **sent)
    assert "submitted job synthesize-" in text
    assert "shards planned, 0 still hold" in text
    restored = remote.folder / "data/restored"
    assert sorted(path.name for path in restored.rglob("*") if path.is_file()) == [
        "manifest.parquet",
        "quarantine.parquet",
    ]
    assert remote.json("reports/synthesize.json")["samples"] == 16
    assert json.loads((remote.folder / "reports/throughput.json").read_text())["synthesize"]["images"] == 16

    [job] = [
        job
        for job in JobSubmissionClient(cluster.jobs).list_jobs()
        if (job.metadata or {}).get("stage") == "synthesize"
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=remote.folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert job.metadata["git_commit"].startswith(commit)
    assert len(job.metadata["params_hash"]) == 64
    runs = "select run_uuid from runs where name = 'synthesize'"
    tags = dict(remote.sql(f"select key, value from tags where run_uuid in ({runs})"))
    assert tags["git_commit"].startswith(commit)

    # What it must be, made here without Ray.
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    params, prior = load_params(remote.folder / "params.yaml"), remote.folder / "models/prior"
    expected = {
        "data/shards": make_all(
            plan_faces(params, list_source(params.data)),
            face_spec(params),
            tmp_path / "data/shards",
            face_config_hash(params),
        )
    }
    expected["data/restored"] = make_all(
        plan_from(tmp_path / "data/shards"),
        restored_spec(params, prior),
        tmp_path / "data/restored",
        restored_config_hash(params, prior),
    )
    for folder, manifest in expected.items():
        assert manifest.shards
        assert Manifest.load(place_of(f"s3://{BUCKET}/remote") / folder) == manifest


def make_all(tasks: Sequence[ShardTask], spec: WorkerSpec, folder: Path, config_hash: str) -> Manifest:
    worker, manifest = spec.build(), Manifest()
    for task in tasks:
        outcome = make_shard(task, worker, folder, config_hash)
        manifest.put(outcome.row, outcome.refused)
    manifest.save(folder)
    return manifest


def test_a_failing_job_fails_dvc_repro_with_its_last_lines(
    cluster: Cluster, server: S3Server, tmp_path: Path
) -> None:
    project = project_with(tmp_path, f"s3://{BUCKET}/failing")
    params = tmp_path / "params.yaml"
    # The people that the embedded prior knows: it is refused on the cluster, once the shards are made.
    params.write_text(re.sub(r"seed: 0 ", f"seed: {KNOWN_SEED} ", params.read_text()))
    text = project.run("dvc", "repro", "prior", code=255, **server.environment, RAY_ADDRESS=cluster.jobs)
    assert (tmp_path / "data/shards/manifest.parquet").is_file()
    last = text[text.index("prior: job prior-") :]
    assert "ended as FAILED" in last
    assert "draws the people whom the embedded prior knows" in last
    assert "failed to reproduce 'prior'" in last


def test_ctrl_c_stops_the_job_and_the_next_start_goes_on(
    cluster: Cluster, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_with(tmp_path, f"s3://{BUCKET}/stopped", identities=120)
    sent = server.environment | {"RAY_ADDRESS": cluster.jobs}
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    manifest = place_of(f"s3://{BUCKET}/stopped/data/shards")
    process = project.start("python", "-m", "pipelines.shard", **sent)
    deadline = time.monotonic() + 200
    while len(Manifest.load(manifest).shards) < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "stopping job shard-" in text
    [job] = [
        job
        for job in JobSubmissionClient(cluster.jobs).list_jobs()
        if (job.metadata or {}).get("storage") == f"s3://{BUCKET}/stopped"
    ]
    assert job.status.value == "STOPPED"
    done = len(Manifest.load(manifest).shards)
    project.run("python", "-m", "pipelines.shard", **sent)
    figures = project.json("reports/throughput.json")["shard"]
    assert figures["shards_skipped"] >= done
    assert figures["shards_done"] > 0


def test_what_cannot_work_is_said_before_any_work(
    remote: Project, cluster: Cluster, server: S3Server, tmp_path: Path
) -> None:
    start = time.monotonic()
    text = remote.run(
        "python", "-m", "pipelines.shard", code=1, **server.environment, RAY_ADDRESS="http://127.0.0.1:9"
    )
    assert "shard: RAY_ADDRESS http://127.0.0.1:9: no cluster answers there" in text
    wrong = server.environment | {"AWS_ENDPOINT_URL": "127.0.0.1:9"}
    text = remote.run("python", "-m", "pipelines.shard", code=1, **wrong)
    assert "AWS_ENDPOINT_URL: expected http://HOST:PORT" in text
    local = project_with(tmp_path / "local", "")
    text = local.run("python", "-m", "pipelines.shard", code=1, RAY_ADDRESS=cluster.jobs)
    assert "storage.root: must be s3://bucket/prefix, or an absolute folder" in text
    assert time.monotonic() - start < 120
    with pytest.raises(JobError, match="no cluster answers"):
        check_reachable("127.0.0.1:9")


def test_a_schedule_that_fires_twice_submits_one_job_and_returns_its_exit_code(
    cluster: Cluster, tmp_path: Path
) -> None:
    client = JobSubmissionClient(cluster.jobs)
    count, verdict = tmp_path / "count", tmp_path / "verdict"
    verdict.write_text("3")
    entrypoint = f"echo x >> {count}; sleep 2; exit $(cat {verdict})"
    fires = [Submitter(client, entrypoint, poll=0.2) for _ in range(4)]
    with ThreadPoolExecutor(len(fires)) as threads:  # at the very same moment
        jobs = list(threads.map(lambda fire: fire.submit("retrain-2026-w48-5026df9b"), fires))
        codes = list(threads.map(lambda fire: fire.watch(jobs[0], 1.0), fires))
    assert set(jobs) == {"retrain-2026-w48-5026df9b"}
    assert codes == [3, 3, 3, 3]  # of the gate that refused
    assert count.read_text().split() == ["x"]
    verdict.write_text("0")
    assert (
        fires[0].watch(fires[0].submit("retrain-2026-w48-5026df9b"), 1.0) == 3
    )  # the period has had its run
    again = fires[0].submit("retrain-2026-w48-5026df9b", again=True)
    assert again == "retrain-2026-w48-5026df9b.2"
    assert fires[1].submit("retrain-2026-w48-5026df9b", again=True) == again  # it runs
    assert fires[1].watch(again, 0.0) == STILL_RUNS
    assert fires[1].watch(again, 1.0) == 0
    assert fires[2].submit("retrain-2026-w48-5026df9b") == again
    assert count.read_text().split() == ["x", "x"]


def test_the_submitted_command_runs_in_the_project_on_the_head(cluster: Cluster, tmp_path: Path) -> None:
    project = tmp_path / "a project"
    (project / "pipelines").mkdir(parents=True)
    (project / "pipelines/__init__.py").touch()
    (project / "pipelines/retrain.py").write_text(
        "import sys, pathlib; pathlib.Path('ran').write_text(' '.join(sys.argv[1:])); sys.exit(4)"
    )
    words = ["--address", cluster.jobs, "--project", str(project), "--period", "day", "--now"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.submit_retrain", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert (project / "ran").read_text() == "--now"
    with pytest.raises(SubmitError, match="no cluster answers there"):
        connect("http://127.0.0.1:9")

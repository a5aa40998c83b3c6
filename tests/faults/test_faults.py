"""Things that happen to machines, with real processes: what comes out is what an undisturbed run gives."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cfpp.data.manifest import Manifest, shard_path
from cfpp.data.shards import DataError
from cfpp.files import file_digest
from cfpp.storage import Place, names_under, place_of, reading
from cfpp.training import ray_train
from tests.faults.slow_stage import BROKEN, FACES, SHARDS, synthesize, undisturbed, write_project
from tests.s3 import BUCKET, S3Server
from tests.tiny_models import write_models
from tests.training.test_ray_train import FileSink
from tests.training.toy import PARAMS, PaintSpec, job, run, same

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


@dataclass
class Machines:
    """A Ray cluster of this machine's processes: a head without cores, and nodes of one core each."""

    cluster: Any

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20)

    def remove_one_that_works(self, what: str) -> None:
        """Remove a node with a process called `what`, and put another in its place."""
        node = next(node for node in self.cluster.worker_nodes if _processes(what, _raylet(node)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.add()


def _raylet(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def _processes(name: str, ancestor: int) -> list[psutil.Process]:
    """Processes of that name below an ancestor."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        with suppress(psutil.Error):
            if any(name in word for word in process.cmdline()[:1]):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def machines(server: S3Server) -> Iterator[Machines]:
    import ray
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ |= server.environment | {"PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"}
    # A dead node is noticed within seconds; Ray's own settings are in lower case.
    os.environ |= {"RAY_health_check_failure_threshold": "3", "RAY_health_check_period_ms": "500"}
    cluster = Cluster(
        initialize_head=True,
        connect=False,
        shutdown_at_exit=False,  # its signal handlers can only be set in the main thread
        head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False},
    )
    machines = Machines(cluster)
    for _ in range(2):
        machines.add()
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    yield machines
    ray.shutdown()
    cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Manifest:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), models)


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A project's storage with faces to restore."""
    place = tmp_path if request.param == "folder" else place_of(f"s3://{BUCKET}/{tmp_path.name}")
    write_project(place)
    return place


in_a_folder = pytest.mark.parametrize("storage", ["folder"], indirect=True)
in_s3 = pytest.mark.parametrize("storage", ["s3"], indirect=True)


def check(storage: Place, expected: Manifest) -> None:
    """Byte for byte what was expected, every face accounted for, nothing half-written left."""
    folder = storage / "data/restored"
    manifest = Manifest.load(folder)
    assert manifest == expected
    assert sum(row.count for row in manifest.shards.values()) == SHARDS * FACES - 1
    assert [row.key for row in manifest.refused()] == [BROKEN]
    tars = [name for name in names_under(folder) if not name.endswith(".parquet")]
    assert tars == [f"train/{number:05d}.tar" for number in range(SHARDS)]
    for row in manifest.shards.values():
        with reading(shard_path(folder, row.split, row.shard)) as path:
            assert file_digest(path) == row.sha256


def after(storage: Place, shards: int, event: Callable[[], None]) -> threading.Thread:
    """Let `event` happen when so many shards are done."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while len(Manifest.load(storage / "data/restored").shards) < shards:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        event()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_worker_is_killed_in_the_middle_of_a_shard(
    machines: Machines, storage: Place, models: Path, expected: Manifest
) -> None:
    killed: list[int] = []

    def kill() -> None:
        time.sleep(0.25)  # a shard takes half a second
        node = next(n for n in machines.cluster.worker_nodes if _processes("MapBatches", _raylet(n)))
        for process in _processes("MapBatches", _raylet(node)):
            process.kill()
            killed.append(process.pid)

    thread = after(storage, 2, kill)
    report = synthesize(storage, models)
    thread.join()
    assert killed
    assert (report.done, report.skipped) == (SHARDS, 0)
    check(storage, expected)


@in_s3
def test_a_node_is_removed_during_synthesize(
    machines: Machines, storage: Place, models: Path, expected: Manifest
) -> None:
    thread = after(storage, 2, lambda: machines.remove_one_that_works("MapBatches"))
    report = synthesize(storage, models, seconds=0.2)
    thread.join()
    assert report.done == SHARDS
    check(storage, expected)


@in_a_folder
def test_the_driver_is_killed_and_started_again(
    machines: Machines, storage: Place, models: Path, expected: Manifest
) -> None:
    command = [sys.executable, "-m", "tests.faults.driver", str(storage), str(models)]
    command.append(machines.cluster.address)
    first = subprocess.Popen(command, cwd=REPOSITORY)
    after(storage, 3, first.kill).join()
    assert first.wait() == -signal.SIGKILL
    done = len(Manifest.load(storage / "data/restored").shards)
    assert 3 <= done < SHARDS
    second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert [int(word) for word in second.stdout.split()[-2:]] == [SHARDS - done, done]
    check(storage, expected)


@in_s3
def test_the_s3_server_is_down_for_some_seconds(
    machines: Machines, server: S3Server, storage: Place, models: Path, expected: Manifest
) -> None:
    def outage() -> None:
        server.door.shut()
        time.sleep(6)
        server.door.open()

    thread = after(storage, 2, outage)
    report = synthesize(storage, models)
    thread.join()
    assert report.done == SHARDS
    assert report.seconds > 6
    check(storage, expected)


def test_a_full_disk_loses_nothing(
    machines: Machines, tmp_path: Path, models: Path, expected: Manifest
) -> None:
    write_project(tmp_path)
    largest = max(row.bytes for row in expected.shards.values())
    room = tmp_path / "room"
    with pytest.raises(
        DataError, match=r"data/restored/train/\d{5}\.tar: File too large; make room and run again"
    ):
        synthesize(tmp_path, models, seconds=0.0, file_limit=largest - 1, limit_lifted=str(room))
    kept = Manifest.load(tmp_path / "data/restored")
    for row in kept.shards.values():
        assert row == expected.shards[row.split, row.shard]
    room.touch()
    report = synthesize(tmp_path, models, seconds=0.0, file_limit=largest - 1, limit_lifted=str(room))
    assert report.skipped == len(kept.shards)
    check(tmp_path, expected)


def test_a_training_worker_is_killed_at_an_arbitrary_step(machines: Machines, tmp_path: Path) -> None:
    step = random.SystemRandom().randrange(PARAMS.steps)
    plain = PaintSpec(extra_every=3, noise=0.1, discriminator_start=4)
    undisturbed_run = run(tmp_path / "pure", job(spec=plain))
    marker = tmp_path / "killed"
    result = ray_train.fit(
        job(spec=replace(plain, kill=(step, str(marker), str(tmp_path)))),
        name="toy",
        storage=str(tmp_path / "runs"),
        sink=FileSink(str(tmp_path / "log")),
    )
    assert marker.exists()
    assert same(result.weights, undisturbed_run.weights), f"killed at step {step}"
    assert result.curves == undisturbed_run.curves


def test_a_node_is_removed_during_training(machines: Machines, tmp_path: Path) -> None:
    runs = f"s3://{BUCKET}/{tmp_path.name}/runs"
    plain = PaintSpec(extra_every=3, noise=0.1, discriminator_start=4)
    undisturbed_run = run(tmp_path / "pure", job(spec=plain))
    spec = replace(plain, seconds=0.6)
    log = tmp_path / "log"

    def remove() -> None:
        while not log.exists() or "6" not in log.read_text().split():  # past the checkpoint at 5
            time.sleep(0.05)
        machines.remove_one_that_works("RayTrainWorker")

    thread = threading.Thread(target=remove)
    thread.start()
    result = ray_train.fit(
        job(spec=spec, params=replace(PARAMS, max_failures=3)),
        name="toy",
        storage=runs,
        sink=FileSink(str(log)),
    )
    thread.join()
    assert same(result.weights, undisturbed_run.weights)
    assert result.curves == undisturbed_run.curves
    steps = [int(line) for line in log.read_text().split()]
    assert len(steps) > len(set(steps))  # some were trained twice

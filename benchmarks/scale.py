"""The data plane: two workers against one, Ray and bookkeeping against a bare loop, a resumed run, memory.

    python -m benchmarks.scale [--faces 2000] [--runs 3]

The work is that of `synthesize` without the prior, whose network would hide everything else: decode a face of
512 x 512, degrade it, encode the three pictures.
"""

import argparse
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

from benchmarks.no_prior import NoPriorSpec
from cfpp.config import ResourceParams
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import encode_png
from cfpp.data.procedural.render import render
from cfpp.data.shards import write_shard
from cfpp.synthesis.shard_work import make_shard
from cfpp.synthesis.shards_job import JobReport, process_shards
from cfpp.synthesis.tars import plan_from

SIZE = 512
SHARD = 50  # faces
RENDERED = 20  # different ones
REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)  # the driver that is killed
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if options.drive:
        with one_ray():
            job(options.drive, 2)
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="cfpp-scale-") as name:
        folder = Path(name)
        write_faces(folder / "whole", options.faces)
        write_faces(folder / "part", options.faces // 4)
        workers_and_overhead(folder / "whole", options.runs)
        memory(folder)
        resumed(folder / "whole")


def write_faces(project: Path, count: int) -> None:
    """data/shards of so many faces, all of split train."""
    pictures = [encode_png(render(0, number, 0, SIZE).picture) for number in range(RENDERED)]
    manifest = Manifest()
    for number, start in enumerate(range(0, count, SHARD)):
        keys = range(start, min(start + SHARD, count))
        members = [(f"k{key:06d}", {"hq.png": pictures[key % RENDERED]}) for key in keys]
        file = write_shard(shard_path(project / "data/shards", "train", number), members)
        manifest.put(ShardRow("train", number, file.count, file.bytes, file.sha256, "", "", 0), [])
    manifest.save(project / "data/shards")


def job(project: Path, workers: int) -> JobReport:
    """The stage's own job, on the Ray that runs."""
    return process_shards(
        plan_from(project / "data/shards"),
        NoPriorSpec(),
        project / "data/restored",
        config_hash="scale",
        resources=ResourceParams(cpus=1, gpus=0, memory_gb=0, min_actors=workers, max_actors=workers),
    )


def bare_loop(project: Path) -> float:
    """Seconds of the same functions over the same shards, one after another in this process."""
    worker, start = NoPriorSpec().build(), time.perf_counter()
    for task in plan_from(project / "data/shards"):
        make_shard(task, worker, project / "data/bare", "scale")
    return time.perf_counter() - start


def workers_and_overhead(project: Path, runs: int) -> None:
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        seconds["bare"].append(bare_loop(project))
        for name, workers in (("one", 1), ("two", 2)):
            shutil.rmtree(project / "data/restored", ignore_errors=True)
            start = time.perf_counter()
            with one_ray():
                seconds[name].append(job(project, workers).seconds)
                seconds[f"{name} with Ray's own start"].append(time.perf_counter() - start)
    bare, one, two = (statistics.median(seconds[name]) for name in ("bare", "one", "two"))
    faces = sum(row.count for row in Manifest.load(project / "data/shards").shards.values())
    print(f"{faces} faces of {SIZE}, medians of {runs}:")
    print(f"bare loop {bare:.1f} s, one worker {one:.1f} s, two workers {two:.1f} s")
    started = statistics.median(seconds["one with Ray's own start"])
    print(f"orchestration, start of the workers included: {one / bare - 1:+.1%} of the bare loop")
    print(f"Ray's own start, once per dvc repro, included too: {started / bare - 1:+.1%}")
    print(f"two workers against one: {one / two:.2f} times the shards per second")


def memory(folder: Path) -> None:
    """The most memory a worker takes, for a quarter of the shards and for all."""
    peaks = []
    for name in ("part", "whole"):
        shutil.rmtree(folder / name / "data/restored", ignore_errors=True)
        with one_ray():
            peaks.append(job(folder / name, 2).peak_memory / 2**20)
    print(
        f"a worker's peak memory: {peaks[0]:.0f} MiB for a quarter of the shards, {peaks[1]:.0f} MiB for all"
    )


def resumed(project: Path) -> None:
    """Kill the driver with SIGKILL when nine tenths are done, start again, and count what is done twice."""
    folder = project / "data/restored"
    shutil.rmtree(folder, ignore_errors=True)
    total = len(plan_from(project / "data/shards"))
    command = [sys.executable, "-m", "benchmarks.scale", "--drive", str(project)]
    driver = subprocess.Popen(command, start_new_session=True)
    while len(Manifest.load(folder).shards) < 0.9 * total:
        if driver.poll() is not None:
            raise RuntimeError(f"the driver ended with {driver.returncode} before it could be killed")
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = len(Manifest.load(folder).shards)
    with one_ray():
        report = job(project, 2)
    print(f"killed at {kept} of {total} shards; the next start made {report.done}, {report.done / total:.0%}")


@contextmanager
def one_ray() -> Iterator[None]:
    import ray

    where = {"PYTHONPATH": str(REPOSITORY), "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 << 20,
        runtime_env={"env_vars": where},
    )
    try:
        yield
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()

"""The synthesize stage's own worker on a tiny prior, slow enough that something can happen to it."""

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cfpp.config import Params, ResourceParams, load_params
from cfpp.data.manifest import Manifest
from cfpp.data.pictures import encode_png
from cfpp.data.procedural.render import render
from cfpp.storage import Place
from cfpp.synthesis.restored import RestoredSpec, restored_spec
from cfpp.synthesis.shard_work import Made, Refused, ShardWorker, make_shard
from cfpp.synthesis.shards_job import JobReport, process_shards
from cfpp.synthesis.tars import TarTask, plan_from
from tests.tiny_models import SIZE
from tests.tiny_shards import write_shards

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS, FACES = 8, 5
BROKEN = "k03001"  # its picture cannot be read


@dataclass(frozen=True)
class SlowSpec:
    """`RestoredSpec` with a pause per face and, perhaps, a limit to the size of files.

    Attributes:
        file_limit: bytes; 0 = none.
        limit_lifted: once this file is there, the limit no longer holds.
    """

    spec: RestoredSpec
    seconds: float
    file_limit: int = 0
    limit_lifted: str = ""

    def build(self) -> "SlowWorker":
        if self.file_limit and not Path(self.limit_lifted).exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, resource.RLIM_INFINITY))
        return SlowWorker(self.spec.build(), self.seconds)


class SlowWorker:
    def __init__(self, worker: ShardWorker, seconds: float) -> None:
        self.worker, self.seconds = worker, seconds

    def keys(self, task: TarTask) -> Sequence[str]:
        return self.worker.keys(task)

    def process(self, task: TarTask) -> Iterator[Made | Refused]:
        for item in self.worker.process(task):
            time.sleep(self.seconds)
            yield item


def tiny_params() -> Params:
    """The project's, at the tiny prior's size."""
    params = load_params(REPOSITORY / "params.yaml")
    return replace(
        params,
        run=replace(params.run, size=SIZE),
        synthesize=replace(params.synthesize, variants=1, batch_size=4),
    )


def write_project(storage: Place) -> None:
    """Shards of faces, one of which is broken, in `storage`."""
    picture = encode_png(render(0, 1, 0, SIZE).picture)
    shards = {}
    for number in range(SHARDS):
        keys = [f"k{number:02d}{face:03d}" for face in range(FACES)]
        shards["train", number] = [
            (key, {"hq.png": b"no picture" if key == BROKEN else picture, "meta.json": b"{}"}) for key in keys
        ]
    write_shards(storage / "data/shards", shards)


def synthesize(storage: Place, models: Path, seconds: float = 0.1, **limits: Any) -> JobReport:
    """The stage, on the Ray that runs."""
    spec = SlowSpec(restored_spec(tiny_params(), models / "prior"), seconds, **limits)
    return process_shards(
        plan_from(storage / "data/shards"),
        spec,
        storage / "data/restored",
        config_hash="config",
        resources=ResourceParams(cpus=1, gpus=0, memory_gb=0, min_actors=1, max_actors=2),
    )


def undisturbed(folder: Path, models: Path) -> Manifest:
    """What the stage must end with, made in this process without Ray."""
    write_project(folder)
    worker, manifest = restored_spec(tiny_params(), models / "prior").build(), Manifest()
    for task in plan_from(folder / "data/shards"):
        outcome = make_shard(task, worker, folder / "data/restored", "config")
        manifest.put(outcome.row, outcome.refused)
    return manifest

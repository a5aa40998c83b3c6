"""The one way a stage turns planned shards into shards: on Ray Data actors, resumable by shard.

A worker yields, for each planned key, the members it made or the reason why not. Everything else is
here: what is skipped, what is deleted, how a shard reaches the disk, and that every key is accounted for.
"""

import json
import logging
import pickle
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cfpp.data.manifest import (
    SPLITS,
    Manifest,
    QuarantineRow,
    ShardRow,
    check_accounting,
    check_quarantine,
    shard_path,
)
from cfpp.data.shards import DataError, write_shard
from cfpp.files import replacing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardTask:
    """One shard to make. Stages add what their worker reads.

    Attributes:
        split, shard: its place.
        input_sha256: identity of everything that the worker will read for it.
    """

    split: str
    shard: int
    input_sha256: str


@dataclass(frozen=True)
class Made:
    """A finished face: its members by name, e.g. {"hq.png": ...}."""

    key: str
    members: dict[str, bytes]


@dataclass(frozen=True)
class Refused:
    """A face that could not be made, and why."""

    key: str
    source: str
    reason: str


class ShardWorker(Protocol):
    """Lives in one actor and makes one shard after another. Its bytes may depend on the task only."""

    def keys(self, task: Any) -> Sequence[str]:
        """The keys planned for the shard."""
        ...

    def process(self, task: Any) -> Iterator[Made | Refused]:
        """Each planned key once, those made in ascending order."""
        ...


class WorkerSpec(Protocol):
    """A picklable recipe for a worker."""

    def build(self) -> ShardWorker:
        """Build the worker, inside the process where it will work."""
        ...


@dataclass(frozen=True)
class ShardOutcome:
    """What a worker reports of a shard it has written."""

    row: ShardRow
    refused: tuple[QuarantineRow, ...]


@dataclass(frozen=True)
class JobReport:
    """What a job found and did.

    Attributes:
        manifest: as saved.
        done, skipped: shards made and shards that still held.
        faces: keys processed in the shards made, quarantined ones included.
        seconds: wall time.
    """

    manifest: Manifest
    done: int
    skipped: int
    faces: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Figures of the data alone: the same data gives the same figures."""
        rows = list(self.manifest.shards.values())
        figures: dict[str, Any] = {
            "shards": len(rows),
            "samples": sum(row.count for row in rows),
            "bytes": sum(row.bytes for row in rows),
            "quarantined": sum(row.quarantined for row in rows),
            "sha256": self.manifest.sha256(),
        }
        for split in SPLITS:
            figures[f"samples_{split}"] = sum(row.count for row in self.manifest.rows(split))
        return figures

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write the summary and the stage's own facts as JSON; no clock in it."""
        text = json.dumps(self.summary() | dict(facts), indent=2, sort_keys=True) + "\n"
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")

    def speed(self) -> dict[str, float]:
        """Figures of this run: they differ from run to run."""
        return {
            "shards_done": float(self.done),
            "shards_skipped": float(self.skipped),
            "seconds": self.seconds,
            "images_per_second": self.faces / self.seconds if self.seconds > 0 else 0.0,
        }


def process_shards(
    tasks: Sequence[ShardTask],
    spec: WorkerSpec,
    folder: Path,
    *,
    config_hash: str,
    workers: int,
    use_gpu: bool = False,
    max_quarantine_ratio: float = 1.0,
) -> JobReport:
    """Bring a stage folder to what `tasks` plan, and save its manifest after each shard.

    Shards that still hold are skipped. Stale rows, shards that are no longer planned and half-written
    files are removed first, so that a killed run leaves nothing that could be mistaken for the result.
    Ray must have been started when there is anything to do.

    Args:
        folder: the stage's folder, on storage that every worker sees.
        config_hash: identity of the params and code that decide the bytes.
        workers: Ray Data actors, at most.
        use_gpu: one GPU per actor.
        max_quarantine_ratio: share of refused faces above which the job fails, once all is saved.

    Raises:
        AccountingError: keys are lost, or too many are refused.
        DataError: an input shard is missing or damaged, or a split is left without faces.
    """
    start = time.monotonic()
    folder = folder.resolve()
    manifest = Manifest.load(folder)
    todo = [
        task
        for task in tasks
        if not manifest.holds(folder, task.split, task.shard, task.input_sha256, config_hash)
    ]
    _clean(folder, manifest, tasks, todo)
    manifest.save(folder)
    log.info("%s: %d shards planned, %d still hold", folder.name, len(tasks), len(tasks) - len(todo))
    faces = 0
    if todo:
        with closing(_on_ray(todo, spec, folder, config_hash, workers, use_gpu)) as outcomes:
            faces = _collect(outcomes, manifest, folder, len(todo))
    check_quarantine(manifest, max_quarantine_ratio)
    _check_splits(manifest)
    return JobReport(manifest, len(todo), len(tasks) - len(todo), faces, time.monotonic() - start)


def make_shard(task: ShardTask, worker: ShardWorker, folder: Path, config_hash: str) -> ShardOutcome:
    """Write one shard and account for each of its keys. What an actor does, callable without Ray.

    Raises:
        AccountingError: the worker lost, repeated or invented a key.
    """
    refused: list[Refused] = []
    written: list[str] = []

    def made() -> Iterator[tuple[str, dict[str, bytes]]]:
        for item in worker.process(task):
            if isinstance(item, Refused):
                refused.append(item)
            else:
                written.append(item.key)
                yield item.key, item.members

    file = write_shard(shard_path(folder, task.split, task.shard), made())
    check_accounting(worker.keys(task), written, [item.key for item in refused])
    row = ShardRow(
        split=task.split,
        shard=task.shard,
        count=file.count,
        bytes=file.bytes,
        sha256=file.sha256,
        input_sha256=task.input_sha256,
        config_hash=config_hash,
        quarantined=len(refused),
    )
    reasons = (QuarantineRow(task.split, task.shard, item.key, item.source, item.reason) for item in refused)
    return ShardOutcome(row, tuple(reasons))


def reason_of(error: Exception) -> str:
    """One line for the quarantine table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:10_000]


def _clean(folder: Path, manifest: Manifest, tasks: Sequence[ShardTask], todo: Sequence[ShardTask]) -> None:
    planned = {(task.split, task.shard) for task in tasks}
    held = planned - {(task.split, task.shard) for task in todo}
    for place in sorted(set(manifest.shards) | set(manifest.quarantine)):
        if place not in held:
            manifest.drop(*place)
    kept = {shard_path(folder, *place) for place in planned}
    for split in SPLITS:
        for path in sorted((folder / split).glob("*")):
            if path.suffix == ".tmp" or (path.suffix == ".tar" and path not in kept):
                log.info("removing %s", path)
                path.unlink()


def _collect(outcomes: Iterator[ShardOutcome], manifest: Manifest, folder: Path, total: int) -> int:
    from tqdm import tqdm

    faces = 0
    for outcome in tqdm(outcomes, total=total, unit="shard", desc=folder.name):
        manifest.put(outcome.row, outcome.refused)
        manifest.save(folder)
        faces += outcome.row.count + outcome.row.quarantined
    return faces


def _check_splits(manifest: Manifest) -> None:
    for split in SPLITS:
        rows = manifest.rows(split)
        if rows and not any(row.count for row in rows):
            first = next(row for row in manifest.refused() if row.split == split)
            raise DataError(f"every {split} face is quarantined; first: {first.source}: {first.reason}")


class _Actor:
    """What Ray Data keeps alive: one worker, one thread, so that bytes do not depend on the machine."""

    def __init__(self, spec: bytes, folder: str, config_hash: str) -> None:
        import cv2
        import torch

        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("cfpp").setLevel(logging.INFO)  # Ray passes it on to the driver
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        self.worker: ShardWorker = pickle.loads(spec).build()
        self.folder, self.config_hash = Path(folder), config_hash

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        outcomes = [pickle.dumps(self._make(pickle.loads(task))) for task in batch.column("task").to_pylist()]
        return pyarrow.table({"outcome": pyarrow.array(outcomes, pyarrow.binary())})

    def _make(self, task: ShardTask) -> ShardOutcome | DataError:
        try:
            return make_shard(task, self.worker, self.folder, self.config_hash)
        except DataError as error:  # returned, for Ray's own wrapping loses the type on the way
            return error


def _on_ray(
    tasks: Sequence[ShardTask], spec: WorkerSpec, folder: Path, config_hash: str, workers: int, use_gpu: bool
) -> Generator[ShardOutcome, None, None]:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False  # tqdm shows the shards
    pool = min(workers, len(tasks))
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_kwargs={"spec": pickle.dumps(spec), "folder": str(folder), "config_hash": config_hash},
        batch_size=1,
        batch_format="pyarrow",
        # From one actor on: a cluster with fewer free cores than workers goes slower, it does not hang.
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=pool, initial_size=pool, max_tasks_in_flight_per_actor=2
        ),
        **({"num_gpus": 1} if use_gpu else {"num_cpus": 1}),
    )
    for batch in results.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        for outcome in map(pickle.loads, batch.column("outcome").to_pylist()):
            if isinstance(outcome, DataError):
                raise outcome
            yield outcome

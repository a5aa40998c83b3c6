"""What a worker does to one shard: the contract between a stage's worker and the job that runs it."""

import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from cfpp.data.manifest import QuarantineRow, ShardRow, check_accounting, shard_path
from cfpp.data.shards import write_shard
from cfpp.storage import Place


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

    @contextmanager
    def opened(self) -> Iterator[Self]:
        """The task with its input on the local disk, for as long as the block lasts."""
        yield self


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
    """What a worker reports of a shard it has written.

    Attributes:
        row, refused: for the manifest.
        seconds: that it took.
        peak_memory: the most memory that the worker's process has ever taken, bytes.
    """

    row: ShardRow
    refused: tuple[QuarantineRow, ...]
    seconds: float
    peak_memory: int


def make_shard(task: ShardTask, worker: ShardWorker, folder: Place, config_hash: str) -> ShardOutcome:
    """Write one shard and account for each of its keys. What an actor does, callable without Ray.

    Raises:
        AccountingError: the worker lost, repeated or invented a key.
        OSError: the input cannot be read, or the shard not be written.
    """
    start = time.perf_counter()
    refused: list[Refused] = []
    written: list[str] = []
    with task.opened() as local:

        def made() -> Iterator[tuple[str, Mapping[str, bytes]]]:
            for item in worker.process(local):
                if isinstance(item, Refused):
                    refused.append(item)
                else:
                    written.append(item.key)
                    yield item.key, item.members

        file = write_shard(shard_path(folder, task.split, task.shard), made())
        check_accounting(worker.keys(local), written, [item.key for item in refused])
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return ShardOutcome(row, tuple(reasons), time.perf_counter() - start, peak)


def reason_of(error: Exception) -> str:
    """One line for the quarantine table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:10_000]

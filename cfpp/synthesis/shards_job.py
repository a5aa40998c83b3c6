"""The one way a stage turns planned shards into shards: resumable by shard, every key accounted for.

A worker (`cfpp.synthesis.shard_work`) yields, for each planned key, the members it made or the reason why
not. What is skipped, moved and removed is in `settle`, how shards spread over a cluster in `actors`.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfpp.config import ResourceParams
from cfpp.data.manifest import SPLITS, Manifest, check_quarantine
from cfpp.data.shards import DataError
from cfpp.files import replacing
from cfpp.progress import progress_bar
from cfpp.storage import LOCAL, Place, place_of
from cfpp.synthesis.actors import on_ray
from cfpp.synthesis.settle import settle, sweep
from cfpp.synthesis.shard_work import ShardOutcome, ShardTask, WorkerSpec


@dataclass(frozen=True)
class JobReport:
    """What a job found and did.

    Attributes:
        manifest: as saved.
        done, skipped: shards made and shards that still held.
        faces, bytes, quarantined: of the shards made: keys processed, refused ones included; size; refused.
        peak_memory: the most memory that any worker took, bytes.
        seconds: wall time.
    """

    manifest: Manifest
    done: int
    skipped: int
    faces: int
    bytes: int
    quarantined: int
    peak_memory: int
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
        seconds = max(self.seconds, 1e-9)
        if not self.done:  # nothing was made, so there is no speed
            return {"shards_done": 0.0, "shards_skipped": float(self.skipped), "seconds": self.seconds}
        return {
            "shards_done": float(self.done),
            "shards_skipped": float(self.skipped),
            "images": float(self.faces),
            "bytes": float(self.bytes),
            "quarantined": float(self.quarantined),
            "seconds": self.seconds,
            "images_per_second": self.faces / seconds,
            "bytes_per_second": self.bytes / seconds,
            "peak_memory_bytes": float(self.peak_memory),
        }


def process_shards(
    tasks: Sequence[ShardTask],
    spec: WorkerSpec,
    folder: Place,
    *,
    config_hash: str,
    resources: ResourceParams,
    max_quarantine_ratio: float = 1.0,
) -> JobReport:
    """Bring a stage folder to what `tasks` plan, and save its manifest after each shard.

    Shards that still hold are skipped. Ray must have been started when there is anything to do.

    Args:
        folder: the stage's folder, on storage that every worker sees.
        config_hash: identity of the params and code that decide the bytes.
        resources: of the actors.
        max_quarantine_ratio: share of refused faces above which the job fails, once all is saved.

    Raises:
        AccountingError: keys are lost, or too many are refused.
        DataError: an input shard is missing or damaged, a split is left without faces, the disk is full, or
            workers die again and again.
    """
    start = time.monotonic()
    folder = place_of(folder)
    made: list[ShardOutcome] = []
    try:
        manifest = Manifest.load(folder)
        todo = settle(folder, manifest, tasks, config_hash)
        if todo:
            with closing(on_ray(todo, spec, folder, config_hash, resources)) as outcomes:
                for outcome in _watched(outcomes, folder.name, len(todo)):
                    manifest.put(outcome.row, outcome.refused)
                    manifest.save(folder)
                    made.append(outcome)
            sweep(folder, manifest.shards)  # a worker that died may have left something
    except OSError as error:
        if error.errno not in LOCAL:
            raise
        raise DataError(
            f"{folder}: {error.strerror}; make room and run again: finished shards are kept"
        ) from error
    check_quarantine(manifest, max_quarantine_ratio)
    _check_splits(manifest)
    return JobReport(
        manifest=manifest,
        done=len(made),
        skipped=len(tasks) - len(made),
        faces=sum(outcome.row.count + outcome.row.quarantined for outcome in made),
        bytes=sum(outcome.row.bytes for outcome in made),
        quarantined=sum(outcome.row.quarantined for outcome in made),
        peak_memory=max((outcome.peak_memory for outcome in made), default=0),
        seconds=time.monotonic() - start,
    )


def _watched(outcomes: Iterator[ShardOutcome], stage: str, total: int) -> Iterator[ShardOutcome]:
    """Pass them on, showing shards, time left, faces per second, bytes and refused faces."""
    start, faces, size, refused = time.monotonic(), 0, 0, 0
    with closing(progress_bar(total=total, desc=stage, unit="shard")) as bar:
        for outcome in outcomes:
            yield outcome  # first: what is shown as done is in the manifest
            faces += outcome.row.count + outcome.row.quarantined
            size += outcome.row.bytes
            refused += outcome.row.quarantined
            rate = faces / (time.monotonic() - start)
            bar.set_postfix_str(
                f"{rate:.1f} faces/s, {size / 1e6:.0f} MB, {refused} quarantined", refresh=False
            )
            bar.update(1)


def _check_splits(manifest: Manifest) -> None:
    for split in SPLITS:
        rows = manifest.rows(split)
        if rows and not any(row.count for row in rows):
            first = next(row for row in manifest.refused() if row.split == split)
            raise DataError(f"every {split} face is quarantined; first: {first.source}: {first.reason}")

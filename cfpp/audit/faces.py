"""One face on its way through the stages: its source, its shards, and where and why it ended."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cfpp.audit.stages import STAGES, Stage, fault_of
from cfpp.data.manifest import Manifest, QuarantineRow, ShardRow, shard_path
from cfpp.data.shards import DataError, ShardError, open_shard, scan_shard
from cfpp.storage import Place, reading


@dataclass(frozen=True)
class Entry:
    """What a stage holds of a face.

    Attributes:
        stage: which.
        place: its shard.
        row: that shard's row in the manifest.
        columns: names of the face's members, such as hq.png and 0.lq.png.
        texts: the members that are JSON, by those names.
        refusal: why the stage refused the face; then it has no columns.
    """

    stage: Stage
    place: Place
    row: ShardRow
    columns: tuple[str, ...] = ()
    texts: dict[str, Any] | None = None
    refusal: QuarantineRow | None = None


@dataclass(frozen=True)
class Face:
    """A face and its entries, one per stage that has come to it, in the stages' order."""

    key: str
    split: str
    shard: int
    entries: tuple[Entry, ...]

    @property
    def meta(self) -> dict[str, Any]:
        """identity and source, empty for a face that the first stage refused."""
        return dict((self.entries[0].texts or {}).get("meta.json", {}))

    @property
    def folders(self) -> frozenset[str]:
        """The stage folders that hold it."""
        return frozenset(entry.stage.folder for entry in self.entries if entry.columns)


def find_face(storage: Place, key: str) -> Face:
    """Look a key up in data/shards and in all that was made of it.

    Raises:
        DataError: no shard or quarantine table has it; the message names keys that look like it.
        ShardError: a shard is damaged.
        StorageError: the storage does not answer.
    """
    manifests = {stage: stage.manifest(storage) for stage in STAGES}
    first = manifests[STAGES[0]]
    if not first.shards:
        raise DataError(f"{STAGES[0].place(storage)}: no manifest with shards; run dvc repro shard")
    split, shard = _spot(storage, first, key)
    entries = (_entry(storage, stage, manifest, split, shard, key) for stage, manifest in manifests.items())
    return Face(key, split, shard, tuple(entry for entry in entries if entry))


def _spot(storage: Place, manifest: Manifest, key: str) -> tuple[str, int]:
    seen = []
    for refused in manifest.refused():
        if key == refused.key:
            return refused.split, refused.shard
        seen.append(refused.key)
    for row in sorted(manifest.shards.values()):
        place = shard_path(STAGES[0].place(storage), row.split, row.shard)
        with _opened(place) as path:
            own = list(dict.fromkeys(member.key for member in scan_shard(path)))
        if key in own:
            return row.split, row.shard
        seen += own
    near = get_close_matches(key, seen, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"keys look like {', '.join(seen[:2])}"
    raise DataError(f"{key}: none of the {len(seen)} faces in {STAGES[0].place(storage)}; {hint}")


def _entry(
    storage: Place, stage: Stage, manifest: Manifest, split: str, shard: int, key: str
) -> Entry | None:
    row = manifest.shards.get((split, shard))
    if row is None:
        return None
    place = shard_path(stage.place(storage), split, shard)
    for refused in manifest.quarantine.get((split, shard), ()):
        if refused.key == key:
            return Entry(stage, place, row, refusal=refused)
    with _opened(place) as path, open_shard(path) as stream:
        members = [member for member in scan_shard(path) if member.key == key]
        texts = {
            member.column: json.loads(os.pread(stream.fileno(), member.size, member.offset))
            for member in members
            if member.column.endswith(".json")
        }
    return Entry(stage, place, row, tuple(member.column for member in members), texts) if members else None


@contextmanager
def _opened(place: Place) -> Iterator[Path]:
    """A shard on the local disk, where no copy of it stays: the face may have to go."""
    with reading(place) as path:
        try:
            yield path
        except ShardError as error:
            raise ShardError(f"{place}: {fault_of(error, path)}; see cfpp verify") from error


def describe(face: Face, source: str) -> Iterator[tuple[str, str]]:
    """The face's way as (heading, text) lines.

    Args:
        source: where the params say that faces come from.
    """
    refusal = next((entry.refusal for entry in face.entries if entry.refusal), None)
    yield "face", face.key
    if face.meta:
        yield "source", f"{face.meta['source']} of {source}"
        yield "identity", f"{face.meta['identity']}, all of whose faces are in split {face.split}"
    elif refusal:
        yield "source", f"{refusal.source} of {source}, split {face.split}"
    for entry in face.entries:
        if entry.refusal:
            yield entry.stage.name, f"ends here, quarantined: {entry.refusal.reason}"
            continue
        row = entry.row
        yield (
            entry.stage.name,
            f"{entry.place}, sha256 {row.sha256[:12]}, made by config {row.config_hash[:12] or 'unknown'}",
        )
        yield "", ", ".join(entry.columns)
        for column, drawn in sorted((entry.texts or {}).items()):
            if column.endswith("draw.json"):
                yield "", f"variant {column.split('.')[0]}: {_drawn(drawn)}"


def _drawn(drawn: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in drawn.items())

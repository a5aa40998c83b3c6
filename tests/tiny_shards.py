"""Stage folders of a few shards, as the stages write them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.shards import write_shard
from cfpp.storage import Place

Face = tuple[str, dict[str, bytes]]


def write_stage(folder: Path, splits: Mapping[str, Iterable[Face]]) -> Manifest:
    """Write a shard per split with these faces, (key, members) in ascending order, and the manifest."""
    return write_shards(folder, {(split, 0): faces for split, faces in splits.items()})


def write_shards(folder: Place, shards: Mapping[tuple[str, int], Iterable[Face]]) -> Manifest:
    """The same by split and number."""
    manifest = Manifest()
    for (split, number), faces in shards.items():
        file = write_shard(shard_path(folder, split, number), faces)
        manifest.put(ShardRow(split, number, file.count, file.bytes, file.sha256, "", "", 0), [])
    manifest.save(folder)
    return manifest

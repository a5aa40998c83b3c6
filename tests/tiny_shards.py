"""A stage folder of one shard per split, as the stages write them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.shards import write_shard

Face = tuple[str, dict[str, bytes]]


def write_stage(folder: Path, splits: Mapping[str, Iterable[Face]]) -> Manifest:
    """Write the faces, (key, members) in ascending order, and their manifest."""
    manifest = Manifest()
    for split, faces in splits.items():
        file = write_shard(shard_path(folder, split, 0), faces)
        manifest.put(ShardRow(split, 0, file.count, file.bytes, file.sha256, "", "", 0), [])
    manifest.save(folder)
    return manifest

"""All four stage folders of a few faces, as the stages leave them, without pictures in them."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from cfpp.data.manifest import Manifest, QuarantineRow, ShardRow, shard_path
from cfpp.data.shards import write_shard
from cfpp.storage import Place, copy, names_under, place_of
from tests.s3 import BUCKET

REPOSITORY = Path(__file__).resolve().parents[1]

# split -> keys of each shard; the faces of the second table were refused, by (folder, split, shard)
FACES = {"train": [["ada", "bob", "cy"], ["dan", "eve"]], "val": [["vic"]], "test": [["tim", "tom"]]}
REFUSED = {("shards", "train", 0): "zoe", ("restored", "train", 0): "bob", ("pairs", "train", 1): "dan"}
SOURCES = {"codes": "shards", "restored": "shards", "pairs": "restored"}


def write_project(root: Path) -> Path:
    """Write params.yaml and data/ into `root`."""
    shutil.copy(REPOSITORY / "params.yaml", root)
    lacking: dict[str, set[str]] = {
        "shards": set(),
        "codes": set(),
        "restored": {"bob"},
        "pairs": {"bob", "dan"},
    }
    done: dict[str, Manifest] = {}
    for folder in ("shards", "codes", "restored", "pairs"):
        manifest = done[folder] = Manifest()
        for split, shards in FACES.items():
            if (folder, split) == ("codes", "test"):
                continue
            for number, keys in enumerate(shards):
                made = [key for key in keys if key not in lacking[folder]]
                source = done[SOURCES[folder]].shards[split, number].sha256 if folder in SOURCES else "files"
                add_shard(
                    root / "data" / folder,
                    manifest,
                    (split, number),
                    {key: _members(folder, split, key) for key in made},
                    source,
                    REFUSED.get((folder, split, number)),
                )
        manifest.save(root / "data" / folder)
    return root


def add_shard(
    folder: Path,
    manifest: Manifest,
    spot: tuple[str, int],
    faces: Mapping[str, Mapping[str, bytes]],
    input_sha256: str,
    refused: str | None = None,
) -> None:
    """Write one shard and put its rows into `manifest`, which is not saved."""
    file = write_shard(shard_path(folder, *spot), sorted(faces.items()))
    rows = [QuarantineRow(*spot, refused, f"people/{refused}.jpg", "blurred")] if refused else []
    row = ShardRow(*spot, file.count, file.bytes, file.sha256, input_sha256, "c" * 64, len(rows))
    manifest.put(row, rows)


def move_to_bucket(root: Path) -> Place:
    """Move a project's data into the test server's bucket, but for its tables, which it keeps copies of."""
    bucket = place_of(f"s3://{BUCKET}/run")
    for name in names_under(root / "data"):
        copy(root / "data" / name, bucket / "data" / name)
    for path in (root / "data").rglob("*.tar"):
        path.unlink()
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace('  root: ""', f"  root: {bucket}", 1))
    return bucket


def _members(folder: str, split: str, key: str) -> dict[str, bytes]:
    pixels = hashlib.sha256(f"{folder} {key}".encode()).digest() * 20
    if folder == "shards":
        meta = json.dumps({"identity": f"person-{key}", "source": f"people/{key}.jpg"}).encode()
        return {"hq.png": pixels, "meta.json": meta}
    if folder == "codes":
        return {"codes.npy": pixels}
    made = {}
    for variant in range(2 if split == "train" else 1):
        if folder == "restored":
            made[f"{variant}.draw.json"] = json.dumps({"noise": 3.5 + variant, "jpeg": 60}).encode()
        for column in ("lq", "id", "gp") if folder == "restored" else ("warp", "ap", "mask"):
            made[f"{variant}.{column}.png"] = pixels
    return made

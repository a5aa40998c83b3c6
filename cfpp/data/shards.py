"""Tar shards: written whole or not at all, byte-identical for the same samples, read by offset.

A member's name is `{key}.{column}.{extension}`; keys hold no dots, so the key ends at the first one.
"""

import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cfpp.errors import MendableError
from cfpp.files import file_digest
from cfpp.storage import Place, replacing

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,80}")
_CHUNK = 1 << 20
COLUMN_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class DataError(MendableError, RuntimeError):
    """The data cannot be used as it is; the message says why and what to do."""


class ShardError(DataError):
    """A shard is missing, damaged, or not what its manifest says."""


@dataclass(frozen=True)
class ShardFile:
    """A finished shard: number of keys, size in bytes, sha256 in hex."""

    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie in its tar."""

    key: str
    column: str
    offset: int
    size: int


def shard_name(shard: int) -> str:
    """File name of a shard number."""
    return f"{shard:05d}.tar"


def write_shard(place: Place, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> ShardFile:
    """Write a shard in one step: what is at `place` is always whole.

    Args:
        samples: (key, {"hq.png": bytes, ...}), keys in strictly ascending order.

    Raises:
        ValueError: a key is ill-formed, repeated or out of order.
    """
    import webdataset  # imports torch and takes seconds

    count, last = 0, ""
    with replacing(place) as partial:
        # With encoder=False bytes pass as they are; mtime=0 keeps the clock out of the file.
        with partial.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as tar:
            for key, members in samples:
                if not KEY_PATTERN.fullmatch(key):
                    raise ValueError(f"key {key!r}: expected letters, digits, _ and -, at most 80")
                if key <= last:
                    raise ValueError(f"key {key!r} after {last!r}: keys must ascend")
                tar.write({"__key__": key, **members})
                count, last = count + 1, key
        return ShardFile(count, partial.stat().st_size, file_digest(partial))


def read_shard(path: Path, sha256: str | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {"hq.png": bytes, ...}) in file order.

    Args:
        sha256: what the manifest says; checked before anything is yielded.

    Raises:
        ShardError: the file is missing, is not a tar, or is not the one with that sha256.
    """
    if sha256 is not None and path.exists() and file_digest(path) != sha256:
        raise ShardError(f"{path}: its bytes are not those in the manifest; run its stage again")
    key, sample = "", dict[str, bytes]()
    with open_shard(path) as stream:
        for member in scan_shard(path):
            if member.key != key:
                if sample:
                    yield key, sample
                key, sample = member.key, {}
            sample[member.column] = os.pread(stream.fileno(), member.size, member.offset)
    if sample:
        yield key, sample


def scan_shard(path: Path) -> Iterator[Member]:
    """Yield the members of a tar in file order, reading headers only.

    `Member.column` holds the extension: "hq.png", "0.lq.png".

    Raises:
        ShardError: the file is missing, truncated, not a tar, or not one of our shards: a member that is a
            link or a folder, a name with a path or without a key, keys out of order, a member twice; or a
            damaged header, which would end the tar for whoever reads it and hide the members behind it.
    """
    last, columns, end = "", set[str](), 0
    with open_shard(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for info in tar:
                    key, _, column = info.name.partition(".")
                    if not info.isreg():
                        raise ShardError(f"{path}: member {info.name!r} is no plain file")
                    if not KEY_PATTERN.fullmatch(key) or not COLUMN_PATTERN.fullmatch(column):
                        raise ShardError(f"{path}: member {info.name!r} is not called KEY.COLUMN")
                    if key != last:
                        columns = set()
                    if key < last or column in columns:
                        raise ShardError(f"{path}: member {info.name!r} is there twice, or out of order")
                    last, end = key, info.offset_data + info.size
                    columns.add(column)
                    yield Member(key, column, info.offset_data, info.size)
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header it has seen
        except tarfile.TarError as error:
            raise ShardError(f"{path}: not a whole tar file: {error}") from None
        _check_end(path, stream, -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)


def _check_end(path: Path, stream: BinaryIO, start: int) -> None:
    """Nothing but zeros may follow the last member, and a block of them must."""
    stream.seek(start)
    while rest := stream.read(_CHUNK):
        if rest.count(0) != len(rest):
            raise ShardError(f"{path}: damaged at byte {start} or behind it: a header there cannot be read")
    if stream.tell() == start:
        raise ShardError(f"{path}: not a whole tar file: it has no end")


def open_shard(path: Path) -> BinaryIO:
    """Open for `os.pread`, unbuffered.

    Raises:
        ShardError: there is no such file.
    """
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise ShardError(f"{path}: no such shard; run its stage") from None

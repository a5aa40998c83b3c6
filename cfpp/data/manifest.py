"""What a stage has written: one row per shard, one row per quarantined face."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from cfpp.data.shards import DataError, shard_name
from cfpp.files import file_digest
from cfpp.storage import Place, reading, replacing, size_of

SPLITS = ("train", "val", "test")
MANIFEST_FILE = "manifest.parquet"
QUARANTINE_FILE = "quarantine.parquet"

Row = TypeVar("Row")


class AccountingError(DataError):
    """Keys in are not keys out plus keys quarantined, or too many are quarantined."""


class ManifestError(DataError):
    """A table of a stage folder cannot be used: `place` says which, `why` the rest."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(place, why)
        self.place, self.why = place, why

    def __str__(self) -> str:
        return f"{self.place}: {self.why}; remove it and run its stage again (dvc repro -f -s STAGE)"


@dataclass(frozen=True, order=True)
class ShardRow:
    """One shard. `count` keys are in the tar, `quarantined` more were planned for it and refused."""

    split: str
    shard: int
    count: int
    bytes: int
    sha256: str
    input_sha256: str
    config_hash: str
    quarantined: int


@dataclass(frozen=True, order=True)
class QuarantineRow:
    """One refused face and why."""

    split: str
    shard: int
    key: str
    source: str
    reason: str


@dataclass
class Manifest:
    """The rows of one stage folder."""

    shards: dict[tuple[str, int], ShardRow] = field(default_factory=dict)
    quarantine: dict[tuple[str, int], tuple[QuarantineRow, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Place) -> "Manifest":
        """Read a stage folder; a folder without a manifest gives an empty one.

        Raises:
            ManifestError: a table is damaged, or has not the rows of a manifest.
        """
        rows = _read(folder / MANIFEST_FILE, ShardRow)
        shards = {(row.split, row.shard): row for row in rows}
        if len(shards) < len(rows):
            raise ManifestError(folder / MANIFEST_FILE, "a shard has two rows")
        refused: dict[tuple[str, int], tuple[QuarantineRow, ...]] = {}
        for entry in _read(folder / QUARANTINE_FILE, QuarantineRow):
            spot = (entry.split, entry.shard)
            refused[spot] = (*refused.get(spot, ()), entry)
        return cls(shards, refused)

    def save(self, folder: Place) -> None:
        """Write both tables, each whole or not at all; the same rows give the same bytes."""
        refused = [row for rows in self.quarantine.values() for row in rows]
        # Quarantine first: a row in the manifest must never lack its reasons.
        _write(folder / QUARANTINE_FILE, QuarantineRow, sorted(refused))
        _write(folder / MANIFEST_FILE, ShardRow, sorted(self.shards.values()))

    def put(self, row: ShardRow, refused: Iterable[QuarantineRow]) -> None:
        """Add or replace one shard and its refused faces."""
        place = (row.split, row.shard)
        self.shards[place] = row
        self.quarantine.pop(place, None)
        if rows := tuple(sorted(refused)):
            self.quarantine[place] = rows

    def drop(self, split: str, shard: int) -> None:
        """Forget one shard."""
        self.shards.pop((split, shard), None)
        self.quarantine.pop((split, shard), None)

    def rows(self, split: str) -> list[ShardRow]:
        """The rows of a split, by shard number."""
        return sorted(row for row in self.shards.values() if row.split == split)

    def refused(self) -> list[QuarantineRow]:
        """Every quarantined face."""
        return sorted(row for rows in self.quarantine.values() for row in rows)

    def holds(self, folder: Place, split: str, shard: int, input_sha256: str, config_hash: str) -> bool:
        """Whether a shard is there, whole, its refusals with it, and made from these inputs with this config.

        Of what lies in S3 the size is compared, not every byte: whoever reads it compares those.
        """
        row = self.shards.get((split, shard))
        if row is None or (row.input_sha256, row.config_hash) != (input_sha256, config_hash):
            return False
        if row.quarantined != len(self.quarantine.get((split, shard), ())):  # their table was lost
            return False
        path = shard_path(folder, split, shard)
        if size_of(path) != row.bytes:
            return False
        return not isinstance(path, Path) or file_digest(path) == row.sha256

    def sha256(self) -> str:
        """Identity of the data: a hash over the shards' places and sha256s."""
        lines = [f"{row.split}/{row.shard} {row.sha256}\n" for row in sorted(self.shards.values())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def shard_path(folder: Place, split: str, shard: int) -> Place:
    """Where a shard of a stage folder lies."""
    return folder / split / shard_name(shard)


def check_accounting(planned: Collection[str], written: Collection[str], refused: Collection[str]) -> None:
    """Keys in = keys out + keys quarantined, each once.

    Raises:
        AccountingError: naming the first keys that are lost, invented or counted twice.
    """
    accounted = sorted([*written, *refused])
    if accounted == sorted(planned):
        return
    lost = sorted(set(planned) - set(accounted))
    new = sorted(set(accounted) - set(planned))
    twice = sorted({a for a, b in pairwise(accounted) if a == b})
    raise AccountingError(
        f"{len(planned)} keys in, {len(written)} out and {len(refused)} quarantined; "
        f"lost {lost[:3]}, invented {new[:3]}, twice {twice[:3]}"
    )


def check_quarantine(manifest: Manifest, max_ratio: float) -> None:
    """Fail when too large a share of the faces was refused.

    Raises:
        AccountingError: naming the first files and their reasons.
    """
    refused = manifest.refused()
    total = sum(row.count + row.quarantined for row in manifest.shards.values())
    if refused and len(refused) > max_ratio * total:
        shown = "; ".join(f"{row.source}: {row.reason}" for row in refused[:5])
        more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise AccountingError(
            f"{len(refused)} of {total} faces are quarantined, more than "
            f"data.max_quarantine_ratio {max_ratio} allows: {shown}{more}"
        )


def read_table(path: Path) -> Any:
    """The `pyarrow.Table` of a Parquet file on the local disk.

    Raises:
        DataError: it cannot be read to its end.
    """
    import pyarrow.parquet as parquet

    try:
        return parquet.read_table(path, page_checksum_verification=True)
    except Exception as error:  # pyarrow raises whatever a damaged byte leads it to
        raise DataError(f"{path}: damaged, not a table: {' '.join(str(error).split())}") from error


def _read(place: Place, kind: type[Row]) -> list[Row]:
    if size_of(place) is None:
        return []
    with reading(place) as path:
        try:
            table = read_table(path)
            if not table.schema.equals(_schema(kind)):
                raise DataError("its columns are not those of this version")
            if any(column.null_count for column in table.columns):
                raise DataError("it has empty cells")
            return [kind(**row) for row in table.to_pylist()]
        except (DataError, ValueError) as error:  # ValueError: text that is no UTF-8
            raise ManifestError(place, str(error).removeprefix(f"{path}: ")) from error


def _schema(kind: type) -> Any:
    import pyarrow

    return pyarrow.schema(
        [
            (item.name, pyarrow.int64() if item.type is int else pyarrow.string())
            for item in dataclasses.fields(kind)
        ]
    )


def _write(place: Place, kind: type, rows: list[Any]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    table = pyarrow.Table.from_pylist([dataclasses.asdict(row) for row in rows], _schema(kind))
    with replacing(place) as partial:
        parquet.write_table(table, partial, write_page_checksum=True)

"""Whether every byte under data/ is what the manifests say, and the stages fit together.

One shard number at a time, through all stages: so no more than the keys of a few shards are held at once,
but for those of data/shards, which must differ over all of it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from cfpp.audit.stages import STAGES, Stage, fault_of
from cfpp.config import PriorParams
from cfpp.data.manifest import (
    MANIFEST_FILE,
    QUARANTINE_FILE,
    Manifest,
    ManifestError,
    ShardRow,
    shard_path,
)
from cfpp.data.shards import DataError, ShardError, scan_shard, shard_name
from cfpp.files import file_digest
from cfpp.progress import progress_bar
from cfpp.storage import Place, StorageError, names_under, reading, size_of

Spot = tuple[str, int]  # split and shard number

_THREADS = 8  # hashing and S3 wait for the disk and the network, not for Python
_NAMED = 3


@dataclass
class Tally:
    """What was checked of a stage: shards, the keys in them, quarantined keys and bytes."""

    shards: int = 0
    keys: int = 0
    quarantined: int = 0
    bytes: int = 0


@dataclass
class Verification:
    """The outcome.

    Attributes:
        tallies: per stage, by its name.
        findings: one line each, naming the file and what to do about it; none means that all is well.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


@dataclass
class _Column:
    """What was found in the shards of one number."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    planned: tuple[str, ...] = ()  # keys of data/shards, refused ones included


def verify(storage: Place, prior: PriorParams) -> Verification:
    """Check every stage folder that is there: tables, sizes, sha256s, tar headers, keys, and leftovers.

    Args:
        storage: the storage's root, which holds `data/`.
        prior: where restorations come from; under kind "folder" restored shards were made from pictures as
            well, so that their input is not the shard alone.

    Raises:
        DataError: there is nothing to check.
        StorageError: the storage does not answer.
    """
    outcome = Verification()
    manifests: dict[str, Manifest] = {}
    unknown = set()
    for stage in STAGES:
        names = names_under(stage.place(storage))
        if names:
            outcome.tallies[stage.name] = Tally()
            try:
                manifests[stage.folder] = stage.manifest(storage)
            except ManifestError as error:
                outcome.findings.append(f"{error.place}: {error.why}; {stage.cure(prior, 'remove it and')}")
                unknown.add(stage.folder)
                continue
            outcome.findings += _leftovers(storage, stage, manifests[stage.folder], names, prior)
    if not outcome.tallies:
        raise DataError(f"{storage / 'data'}: no stage has written anything; run dvc repro")
    check = _Check(storage, manifests, frozenset(unknown), prior)
    spots = sorted({spot for manifest in manifests.values() for spot in manifest.shards})
    owners: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as threads, closing(progress_bar(len(spots), "verify", "shard")) as bar:
        for spot, column in zip(spots, threads.map(check.column, spots), strict=True):
            outcome.findings += column.findings
            outcome.findings += _repeats(storage, spot, column.planned, owners, prior)
            for name, tally in column.tallies.items():
                total = outcome.tallies[name]
                total.shards += tally.shards
                total.keys += tally.keys
                total.quarantined += tally.quarantined
                total.bytes += tally.bytes
            bar.update(1)
    return outcome


@dataclass(frozen=True)
class _Check:
    """The checks of one shard number; `unknown` are the folders whose manifests are damaged."""

    storage: Place
    manifests: dict[str, Manifest]
    unknown: frozenset[str]
    prior: PriorParams

    def column(self, spot: Spot) -> _Column:
        """The shards of this number in every stage."""
        column = _Column()
        keys: dict[str, set[str]] = {}  # of shards that are whole, by folder
        for stage in STAGES:
            manifest = self.manifests.get(stage.folder)
            row = manifest.shards.get(spot) if manifest else None
            if manifest and row:
                found, faults = self._shard(stage, manifest, row)
                if found is not None:
                    keys[stage.folder] = found
                    faults += self._against_source(stage, row, keys)
                    column.tallies[stage.name] = Tally(1, len(found), row.quarantined, row.bytes)
                column.findings += faults
            elif manifest and spot[0] in stage.splits and self._source_row(stage, spot):
                place = shard_path(stage.place(self.storage), *spot)
                column.findings.append(f"{place}: its manifest does not list it; {stage.cure(self.prior)}")
        column.planned = (*keys.get(STAGES[0].folder, ()), *self._refused(STAGES[0], spot))
        return column

    def _shard(self, stage: Stage, manifest: Manifest, row: ShardRow) -> tuple[set[str] | None, list[str]]:
        """The keys of one shard, None if they cannot be trusted, and what is wrong with it."""
        name = f"{row.split}/{shard_name(row.shard)}"
        folder = stage.place(self.storage)
        place, table = folder / name, folder / QUARANTINE_FILE
        size = size_of(place)
        if size is None:
            cure = stage.cure(self.prior)
            return None, [f"{place}: there is no such shard, but its manifest lists it; {cure}"]
        keys, faults = self._contents(place, size, row)
        if keys is not None:
            refused = self._refused(stage, (row.split, row.shard))
            if len(keys) != row.count:
                faults.append(f"{place}: holds {len(keys)} keys, its manifest says {row.count}")
            if len(refused) != row.quarantined:
                faults.append(f"{table}: {len(refused)} rows of {name}, the manifest says {row.quarantined}")
            if both := keys & {*refused}:
                faults.append(f"{table}: {_some(both)} of {name} made it into the shard all the same")
            if len({*refused}) < len(refused):
                faults.append(f"{table}: a key of {name} has two rows")
        # Without the shard its stage makes it, and its rows, anew; a row alone would be taken for granted.
        cure = stage.cure(self.prior, f"remove {stage.name}/{name} and")
        return keys, [f"{fault}; {cure}" for fault in faults]

    @staticmethod
    def _contents(place: Place, size: int, row: ShardRow) -> tuple[set[str] | None, list[str]]:
        faults = []
        try:
            with reading(place) as path:
                if size != row.bytes:
                    faults.append(f"{place}: {size} bytes, its manifest says {row.bytes}")
                elif file_digest(path) != row.sha256:
                    faults.append(f"{place}: its bytes are not those of its manifest (sha256)")
                try:
                    keys = {member.key for member in scan_shard(path)}
                except ShardError as error:
                    faults.append(f"{place}: {fault_of(error, path)}")
        except StorageError:
            raise
        except OSError as error:  # of this file alone: the others are still to be looked at
            faults.append(f"{place}: cannot be read: {error.strerror or error}")
        return (None, faults) if faults else (keys, [])

    def _against_source(self, stage: Stage, row: ShardRow, keys: dict[str, set[str]]) -> list[str]:
        """Whether a shard was made from the one that lies in its source folder, and of all its keys."""
        if not stage.source or stage.source in self.unknown:
            return []
        spot = (row.split, row.shard)
        place = shard_path(stage.place(self.storage), *spot)
        source, again = self._source_row(stage, spot), stage.cure(self.prior)
        if source is None:
            return [f"{place}: data/{stage.source} has no such shard to make it from; {again}"]
        from_pictures = stage.folder == "restored" and self.prior.kind == "folder"
        if row.input_sha256 != source.sha256 and not from_pictures:
            return [f"{place}: was made from another data/{stage.source}; {again}"]
        if stage.source not in keys:
            return []  # that one is at fault, and has its own finding
        found, expected = keys[stage.folder] | {*self._refused(stage, spot)}, keys[stage.source]
        faults = []
        if lost := expected - found:
            faults.append(f"lacks {_some(lost)} of data/{stage.source}, not quarantined either")
        if new := found - expected:
            faults.append(f"has {_some(new)}, not in data/{stage.source}")
        return [f"{place}: {fault}; {stage.cure(self.prior, 'remove it and')}" for fault in faults]

    def _source_row(self, stage: Stage, spot: Spot) -> ShardRow | None:
        source = self.manifests.get(stage.source)
        return source.shards.get(spot) if source else None

    def _refused(self, stage: Stage, spot: Spot) -> list[str]:
        manifest = self.manifests.get(stage.folder)
        return [row.key for row in manifest.quarantine.get(spot, ())] if manifest else []


def _leftovers(
    storage: Place, stage: Stage, manifest: Manifest, names: list[str], prior: PriorParams
) -> Iterator[str]:
    """Files that no row stands for, and refused faces of shards that no row stands for."""
    place, again, removed = stage.place(storage), stage.cure(prior), stage.cure(prior, "remove it, or")
    listed = {f"{split}/{shard_name(shard)}" for split, shard in manifest.shards}
    if MANIFEST_FILE not in names:
        yield f"{place / MANIFEST_FILE}: there is none, beside {len(names)} files; {again}"
    for name in names:
        if name.endswith(".tmp"):
            yield f"{place / name}: half-written by a run that was killed; {removed}"
        elif name.endswith(".tar") and name not in listed:
            yield f"{place / name}: no row of its manifest lists it; {removed}"
    for split, shard in sorted(manifest.quarantine.keys() - manifest.shards.keys()):
        where = f"{split}/{shard_name(shard)}"
        yield f"{place / QUARANTINE_FILE}: has rows of {where}, the manifest has none; {again}"


def _repeats(
    storage: Place, spot: Spot, keys: tuple[str, ...], owners: dict[str, str], prior: PriorParams
) -> Iterator[str]:
    """Keys that an earlier shard has; `owners` is filled."""
    cure = STAGES[0].cure(prior, "remove both and")
    place = shard_path(STAGES[0].place(storage), *spot)
    for key in sorted(keys):
        owner = owners.setdefault(key, f"{spot[0]}/{shard_name(spot[1])}")
        if owner != f"{spot[0]}/{shard_name(spot[1])}":
            yield f"{place}: has key {key}, as {owner} has; {cure}"


def _some(keys: set[str]) -> str:
    shown = ", ".join(sorted(keys)[:_NAMED])
    return f"{shown} and {len(keys) - _NAMED} more" if len(keys) > _NAMED else shown

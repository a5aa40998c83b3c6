"""Faces for training and evaluation: columns of sidecar shards joined by key, read by offset."""

import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cfpp.config import DegradationRange
from cfpp.data.degradation import apply, draw
from cfpp.data.draws import generator
from cfpp.data.manifest import Manifest, shard_path
from cfpp.data.pictures import Picture, decode, decode_grey, to_tensor
from cfpp.data.shards import ShardError, open_shard, scan_shard
from cfpp.progress import progress_bar
from cfpp.storage import Place, fetch

log = logging.getLogger(__name__)

FOLDERS = {
    "hq": "shards",
    "lq": "restored",
    "id": "restored",
    "gp": "restored",
    "warp": "pairs",
    "ap": "pairs",
    "mask": "pairs",
    "codes": "codes",
}
_ORDER = ("shards", "codes", "restored", "pairs")
_PER_FACE = {"shards", "codes"}  # folders whose members know no variants


@dataclass(frozen=True)
class Sample:
    """One face.

    Attributes:
        key: the face's key.
        variant: which of its degradations; 0 when only `hq` is asked for.
        identity: the person.
        pictures: column name to uint8 [S, S, 3] RGB; `mask` is uint8 [S, S]; `codes` is uint16 [2, 256], the
            clean face's codes in the prior's codebook, as it is and mirrored.
        meta: identity, source and, for procedural faces, landmarks5 [5, 2] and landmarks68 [68, 2],
            (x, y) pixels; `draw`, the drawn degradation, when a restored column is asked for.
    """

    key: str
    variant: int
    identity: str
    pictures: dict[str, Picture]
    meta: dict[str, Any]


class SampleStore:
    """Random access to the (key, variant) items of one split, in (key, variant) order.

    Columns come from `{root}/data/shards`, `codes`, `restored` and `pairs`, and are joined: an item is there
    when it is in every folder it needs, so a face quarantined by a later stage is absent where that
    stage's columns are asked for. Only shards that the manifests list are read, by `os.pread` at
    offsets found in the tar headers; nothing is extracted. What lies in S3 is copied to this machine first.
    Safe to fork and to pickle.

    Args:
        root: the storage's root, which holds `data/`.
        split: train, val or test.
        columns: names among hq, lq, id, gp, warp, ap, mask, codes.

    Raises:
        ShardError: a folder has no shards of this split, or a shard is missing or damaged.
        ValueError: an unknown column.
    """

    def __init__(self, root: Place, split: str, columns: Sequence[str]) -> None:
        unknown = [name for name in columns if name not in FOLDERS]
        if unknown or not columns:
            raise ValueError(f"unknown column {unknown or columns!r}; known: {', '.join(FOLDERS)}")
        self.root, self.split, self.columns = root, split, tuple(columns)
        wanted = {FOLDERS[name] for name in columns}
        self._variants = not wanted <= _PER_FACE
        self._has_draw = "restored" in wanted
        members = {"meta": "shards", **{name: FOLDERS[name] for name in columns}}
        if self._has_draw:
            members["draw"] = "restored"
        self._paths: list[Path] = []
        self._streams: dict[int, BinaryIO] = {}
        found: dict[str, dict[tuple[str, int], tuple[int, int, int]]] = {name: {} for name in members}
        for folder in _ORDER:
            if folder in members.values():
                self._scan(folder, {name: found[name] for name in members if members[name] == folder})
        self.items, self._where = _join(found, members, self._variants)
        if not self.items:
            raise ShardError(f"{self.root / 'data'}: no faces of split {split} with columns {columns}")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        key, variant = self.items[index]
        meta = json.loads(self._read("meta", index))
        if self._has_draw:
            meta["draw"] = json.loads(self._read("draw", index))
        return Sample(key, variant, meta["identity"], self.pictures(index), meta)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_streams": {}}  # open files do not travel

    def pictures(self, index: int) -> dict[str, Picture]:
        """Only the pictures (and codes) of an item, by column name."""
        return {name: _READERS.get(name, decode)(self._read(name, index)) for name in self.columns}

    def _scan(self, folder: str, found: dict[str, dict[tuple[str, int], tuple[int, int, int]]]) -> None:
        stage = self.root / "data" / folder
        rows = Manifest.load(stage).rows(self.split)
        if not rows:
            raise ShardError(f"{stage}: its manifest lists no {self.split} shards; run the stage first")
        shards = [(shard_path(stage, self.split, row.shard), row.sha256) for row in rows]
        for row, path in zip(rows, _fetch_all(shards), strict=True):
            if path.is_file() and path.stat().st_size != row.bytes:
                raise ShardError(f"{path}: not the {row.bytes} bytes of its manifest; run its stage again")
            self._paths.append(path)
            for member in scan_shard(path):
                variant, name = 0, member.column.split(".")[0]
                if name.isdigit():
                    variant, name = int(name), member.column.split(".")[1]
                if name in found:
                    found[name][member.key, variant] = (len(self._paths) - 1, member.offset, member.size)

    def _read(self, name: str, index: int) -> bytes:
        file, offset, size = (int(number) for number in self._where[name][index])
        stream = self._streams.get(file)
        if stream is None:
            stream = self._streams[file] = open_shard(self._paths[file])
        data = os.pread(stream.fileno(), size, offset)
        if len(data) != size:
            raise ShardError(f"{self._paths[file]}: truncated while it was being read")
        return data


def _join(
    found: dict[str, dict[tuple[str, int], tuple[int, int, int]]],
    members: dict[str, str],
    variants: bool,
) -> tuple[list[tuple[str, int]], dict[str, NDArray[np.int64]]]:
    """The items that every column has, in order, and each column's (file, offset, size) rows."""
    shared = [name for name, folder in members.items() if folder in _PER_FACE]
    own = [name for name, folder in members.items() if folder not in _PER_FACE]
    base = set(found[shared[0]])
    faces = base.intersection(*(found[name] for name in shared[1:]))
    items = set(found[own[0]]).intersection(*(found[name] for name in own[1:])) if variants else faces
    orphans = [key for key, _ in items if (key, 0) not in faces]
    if orphans:
        raise ShardError(f"key {min(orphans)} has no face in data/shards; run the later stages again")
    ordered = sorted(items)
    where = {}
    for name in members:
        places = [found[name][(key, 0) if name in shared else (key, v)] for key, v in ordered]
        where[name] = np.asarray(places, dtype=np.int64).reshape(-1, 3)
    log.info("%d faces in store, %d items with columns %s", len(base), len(ordered), [*members])
    return ordered, where


class Batches:
    """Batches whose content is a pure function of (seed, step).

    The items are shuffled anew each epoch and laid end to end; step s takes places s * batch_size to
    (s + 1) * batch_size - 1, and rank r of `world` takes every world-th of them from the r-th on. So
    nothing is left over at an epoch's end, ranks share no place, and the union of all ranks' batches
    does not depend on `world`. A map-style dataset over steps: `DataLoader(batches, batch_size=None,
    sampler=range(start, stop), num_workers=n)` prefetches.

    Args:
        store: where the faces are.
        batch_size: over all ranks; a multiple of `world`.
        seed: `run.seed`.
        rank, world: this process and how many there are.
        flip: mirror each item, all its columns alike, with probability 1/2, drawn by (seed, place).
        degrade: adds the column `lq`, drawn by (seed, key, step) from this range, or from the range
            that a picklable function of the step gives (a curriculum). Needs `hq`.
        kernel_size: side of the blur kernel at 512, pixels.

    Raises:
        ValueError: the sizes do not fit, or `degrade` is asked for without `hq`.
    """

    def __init__(
        self,
        store: SampleStore,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        flip: bool = False,
        degrade: DegradationRange | Callable[[int], DegradationRange] | None = None,
        kernel_size: int = 41,
    ) -> None:
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise ValueError(f"batch size {batch_size} over {world} ranks, this one {rank}: does not fit")
        if degrade is not None and ("hq" not in store.columns or "lq" in store.columns):
            raise ValueError("degrade makes lq from hq: ask the store for hq and not for lq")
        self.store, self.batch_size, self.seed = store, batch_size, seed
        self.rank, self.world, self.flip = rank, world, flip
        self.degrade, self.kernel_size = degrade, kernel_size

    def __getitem__(self, step: int) -> dict[str, Any]:
        return self.batch(step)

    def batch(self, step: int) -> dict[str, Any]:
        """This rank's part of step `step`.

        Returns:
            Per column float32 [B / world, 3, S, S] in [-1, 1]; `mask` [B / world, 1, S, S] in [0, 1];
            `codes` int64 [B / world, 256]; `key` list[str]; `variant` int64 [B / world].
        """
        places = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world)
        return collate([self._item(place, step) for place in places])

    def indices(self, step: int) -> list[int]:
        """Which items of the store this rank takes at a step."""
        places = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world)
        return [self._index(place) for place in places]

    def _index(self, place: int) -> int:
        epoch, position = divmod(place, len(self.store))
        return int(_permutation(self.seed, epoch, len(self.store))[position])

    def _item(self, place: int, step: int) -> tuple[str, int, dict[str, Picture]]:
        index = self._index(place)
        key, variant = self.store.items[index]
        pictures = self.store.pictures(index)
        codes = pictures.pop("codes", None)
        mirrored = self.flip and generator(self.seed, "flip", place).random() < 0.5
        if mirrored:
            pictures = {name: np.ascontiguousarray(item[:, ::-1]) for name, item in pictures.items()}
        if codes is not None:
            pictures["codes"] = codes[int(mirrored)]
        if self.degrade is not None:
            limits = self.degrade(step) if callable(self.degrade) else self.degrade
            rng = generator(self.seed, "degradation", key, "step", step)
            degradation = draw(limits, rng)
            pictures["lq"] = apply(pictures["hq"], degradation, rng, kernel_size=self.kernel_size)
        return key, variant, pictures


def _fetch_all(shards: Sequence[tuple[Place, str]]) -> list[Path]:
    """Local paths of shards, given with their sha256; several are copied at a time."""
    if all(isinstance(place, Path) for place, _ in shards):
        return [fetch(*shard) for shard in shards]
    paths = []
    with (
        ThreadPoolExecutor(max_workers=8) as threads,
        closing(progress_bar(len(shards), "copy", "shard")) as bar,
    ):
        try:
            for path in threads.map(lambda shard: fetch(*shard), shards):
                paths.append(path)
                bar.update(1)
        except FileNotFoundError as error:
            raise ShardError(f"{error}; run its stage") from None
    return paths


def encode_codes(codes: NDArray[np.uint16]) -> bytes:
    """The member `codes.npy` of a face: uint16 [2, 256], its codes as it is and mirrored."""
    buffer = io.BytesIO()
    np.save(buffer, codes, allow_pickle=False)
    return buffer.getvalue()


def _decode_codes(data: bytes) -> NDArray[np.uint16]:
    codes: NDArray[np.uint16] = np.load(io.BytesIO(data), allow_pickle=False)
    return codes


_READERS: dict[str, Callable[[bytes], NDArray[Any]]] = {"mask": decode_grey, "codes": _decode_codes}


def collate(items: Sequence[tuple[str, int, dict[str, Picture]]]) -> dict[str, Any]:
    """Stack (key, variant, pictures) items into the batch that `Batches.batch` describes."""
    batch: dict[str, Any] = {}
    for name in items[0][2]:
        stacked = np.stack([pictures[name] for _, _, pictures in items])
        if name == "mask":
            batch[name] = torch.from_numpy(stacked).unsqueeze(1).float() / 255.0
        elif name == "codes":
            batch[name] = torch.from_numpy(stacked.astype(np.int64))
        else:
            batch[name] = to_tensor(stacked)
    batch["key"] = [key for key, _, _ in items]
    batch["variant"] = torch.tensor([variant for _, variant, _ in items])
    return batch


def in_order(store: SampleStore, batch_size: int) -> Iterator[dict[str, Any]]:
    """Every item once, in the store's order, as batches; the last may be shorter."""
    for start in range(0, len(store), batch_size):
        places = range(start, min(start + batch_size, len(store)))
        yield collate([(*store.items[place], store.pictures(place)) for place in places])


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    return generator(seed, "order", epoch).permutation(length)

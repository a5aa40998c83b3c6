"""What workers that make a shard from another shard share."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor

from cfpp.data.manifest import Manifest, shard_path
from cfpp.data.shards import DataError, ShardError, scan_shard
from cfpp.storage import Place, place_of, reading
from cfpp.synthesis.shard_work import ShardTask

Item = TypeVar("Item")


@dataclass(frozen=True)
class TarTask(ShardTask):
    """A shard made from another one.

    Attributes:
        source: that one's place. Workers see the task `opened`, where it is a path on their disk.
        input_sha256: the sha256 in its manifest.
    """

    source: str

    @contextmanager
    def opened(self) -> Iterator[Self]:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(reading(place_of(self.source)))
            except FileNotFoundError:
                raise ShardError(f"{self.source}: no such shard; run its stage") from None
            yield replace(self, source=str(path))

    @property
    def place(self) -> str:
        """The input shard as the quarantine table names it: the same on every machine."""
        return f"{self.split}/{Path(self.source).name}"


def plan_from(source: Place) -> list[TarTask]:
    """One task per shard in the manifest of `source`, a stage's folder.

    Raises:
        DataError: the stage has not been run.
    """
    rows = Manifest.load(source).shards.values()
    if not rows:
        raise DataError(f"{source}: no manifest with shards; run the stage that writes it")
    return [
        TarTask(row.split, row.shard, row.sha256, str(shard_path(place_of(source), row.split, row.shard)))
        for row in sorted(rows)
    ]


def keys_of(source: str) -> list[str]:
    """The keys of a shard, ascending."""
    return list(dict.fromkeys(member.key for member in scan_shard(Path(source))))


def groups(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last perhaps shorter."""
    while group := list(islice(items, size)):
        yield group


def finite_rows(images: Tensor) -> Tensor:
    """bool [B]: whether every value of [B, ...] is finite."""
    return torch.isfinite(images).flatten(1).all(1).cpu()


def device_of(use_gpu: bool) -> torch.device:
    """Where a worker computes."""
    return torch.device("cuda" if use_gpu else "cpu")

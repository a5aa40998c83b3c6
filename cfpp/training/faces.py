"""Stored faces as batches of a training run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

from cfpp.config import DegradationParams, DegradationRange
from cfpp.data.fingerprint import fingerprint
from cfpp.data.manifest import Manifest
from cfpp.data.samples import FOLDERS, Batches, SampleStore
from cfpp.objectives.base import Batch, ObjectiveSpec
from cfpp.storage import place_of

log = logging.getLogger(__name__)


@runtime_checkable
class Curriculum(Protocol):
    """A spec that says which degradation the faces of a step get."""

    def degradation_for(self, step: int) -> Literal["small", "large"]: ...


@dataclass(frozen=True)
class StoredFaces:
    """Columns of the stage folders under ``root``.

    Attributes:
        root: the storage's root, as `place_of` reads it.
        flip: mirror training items with probability 1/2.
        degradation: make ``lq`` from ``hq`` on the fly, from the large range or as the spec's curriculum says
            (held-out faces always get the large range); None reads it from data/restored.
    """

    root: str
    flip: bool
    degradation: DegradationParams | None = None

    def sha256(self, spec: ObjectiveSpec) -> str:
        """Identity of the data a spec reads: that of the manifests behind its columns."""
        columns = {"hq", *spec.columns} - ({"lq"} if self.degradation is not None else set())
        folders = sorted({FOLDERS[name] for name in columns})
        return fingerprint(
            {name: Manifest.load(place_of(self.root) / "data" / name).sha256() for name in folders}
        )

    def open(
        self, spec: ObjectiveSpec, split: str, *, batch_size: int, parts: int, seed: int
    ) -> FaceBatches | None:
        degrade: DegradationRange | Callable[[int], DegradationRange] | None = None
        columns, kernel_size, train = tuple(spec.columns), 1, split == "train"
        if self.degradation is not None and "lq" in columns:
            columns = tuple(name for name in columns if name != "lq")
            degrade, kernel_size = self.degradation.large, self.degradation.kernel_size
            if train and isinstance(spec, Curriculum):
                degrade = partial(_range_for, self.degradation, spec)
        if not train and not Manifest.load(place_of(self.root) / "data" / "shards").rows(split):
            return None
        store = SampleStore(place_of(self.root), split, columns)
        batches = [
            Batches(
                store,
                batch_size=batch_size,
                seed=seed,
                rank=part,
                world=parts,
                flip=self.flip and train,
                degrade=degrade,
                kernel_size=kernel_size,
            )
            for part in range(parts)
        ]
        return FaceBatches(batches)


@dataclass(frozen=True)
class FaceBatches:
    """One `Batches` per part, over one store."""

    parts: list[Batches]

    def batch(self, step: int, part: int) -> Batch:
        return self.parts[part].batch(step)

    def __len__(self) -> int:
        return len(self.parts[0].store)


def _range_for(params: DegradationParams, spec: Curriculum, step: int) -> DegradationRange:
    return params.small if spec.degradation_for(step) == "small" else params.large

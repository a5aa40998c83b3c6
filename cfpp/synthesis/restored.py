"""The synthesize stage: degrade each face and let the prior restore it both ways."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cfpp.config import DegradationRange, Params
from cfpp.data.degradation import Degradation, apply, draw
from cfpp.data.draws import generator
from cfpp.data.fingerprint import fingerprint
from cfpp.data.manifest import Manifest, shard_path
from cfpp.data.pictures import Picture, decode, encode_png, to_pictures, to_tensor
from cfpp.data.shards import DataError, read_shard, scan_shard
from cfpp.models.prior import Prior, load_prior, network_of
from cfpp.models.weights import read_card
from cfpp.synthesis.shards_job import Made, Refused, ShardTask, reason_of

Item = TypeVar("Item")

HELD_OUT_VARIANTS = 1
"""Degradations per face of val and test: one, so that a held-out face counts once in every metric."""


@dataclass(frozen=True)
class TarTask(ShardTask):
    """A shard made from another one: its path and `input_sha256`, the sha256 in that one's manifest."""

    source: str

    @property
    def place(self) -> str:
        """The input shard as the quarantine table names it: the same on every machine."""
        return f"{self.split}/{Path(self.source).name}"


@dataclass(frozen=True)
class RestoredSpec:
    """Recipe of a `RestoredWorker`.

    Attributes:
        prior: folder or file of the prior's weights, absolute.
        limits: what degradations are drawn from.
        variants: degradations per train face.
        batch_size: pictures per forward of the prior.
        precision: fp32 or bf16.
    """

    prior: str
    limits: DegradationRange
    kernel_size: int
    variants: int
    batch_size: int
    precision: str
    seed: int
    use_gpu: bool

    def build(self) -> "RestoredWorker":
        """Load the prior onto the worker's device."""
        return RestoredWorker(self, load_prior(self.prior).to(device_of(self.use_gpu)))


class RestoredWorker:
    """Makes `{variant}.lq.png`, `.id.png`, `.gp.png` and `.draw.json` of each face."""

    def __init__(self, spec: RestoredSpec, prior: Prior) -> None:
        self.spec, self.prior = spec, prior

    def keys(self, task: TarTask) -> Sequence[str]:
        """The keys of the input shard."""
        return keys_of(task)

    def process(self, task: TarTask) -> Iterator[Made | Refused]:
        """Each face with all its variants, or refused whole. Batches never span shards."""
        variants = self.spec.variants if task.split == "train" else HELD_OUT_VARIANTS
        faces = read_shard(Path(task.source), task.input_sha256)
        for group in groups(faces, max(1, self.spec.batch_size // variants)):
            refused: list[Refused] = []
            degraded: list[tuple[str, int, Degradation, Picture]] = []
            for key, members in group:
                try:
                    degraded += self._degrade(key, decode(members["hq.png"]), variants)
                except Exception as error:  # one face must not cost the others theirs
                    refused.append(Refused(key, task.place, reason_of(error)))
            yield from refused
            yield from self._restore(task, degraded)

    def _degrade(self, key: str, hq: Picture, variants: int) -> list[tuple[str, int, Degradation, Picture]]:
        items = []
        for variant in range(variants):
            rng = generator(self.spec.seed, "degradation", key, variant)
            drawn = draw(self.spec.limits, rng)
            items.append((key, variant, drawn, apply(hq, drawn, rng, kernel_size=self.spec.kernel_size)))
        return items

    def _restore(
        self, task: TarTask, degraded: list[tuple[str, int, Degradation, Picture]]
    ) -> Iterator[Made | Refused]:
        made: dict[str, dict[str, bytes]] = {}
        broken: set[str] = set()
        # More variants than the batch holds: a face's group is still cut to the batch size.
        for start in range(0, len(degraded), self.spec.batch_size):
            batch = degraded[start : start + self.spec.batch_size]
            lq = to_tensor(np.stack([picture for *_, picture in batch])).to(device_of(self.spec.use_gpu))
            with torch.inference_mode(), autocast_of(self.spec.precision, lq):
                i_f, i_g = self.prior.restore_pair(lq)
            finite = finite_rows(i_f) & finite_rows(i_g)
            for (key, variant, drawn, picture), fine, id_, gp in zip(
                batch, finite.tolist(), to_pictures(i_f), to_pictures(i_g), strict=True
            ):
                if not fine:
                    broken.add(key)
                made.setdefault(key, {}).update(
                    {
                        f"{variant}.lq.png": encode_png(picture),
                        f"{variant}.id.png": encode_png(id_),
                        f"{variant}.gp.png": encode_png(gp),
                        f"{variant}.draw.json": json.dumps(asdict(drawn), sort_keys=True).encode(),
                    }
                )
        for key, members in made.items():
            if key in broken:
                yield Refused(key, task.place, "the prior gave values that are not finite")
            else:
                yield Made(key, members)


def restored_spec(params: Params, prior: Path) -> RestoredSpec:
    """The worker's recipe for these params."""
    return RestoredSpec(
        prior=str(prior.resolve()),
        limits=params.degradation.large,
        kernel_size=params.degradation.kernel_size,
        variants=params.synthesize.variants,
        batch_size=params.synthesize.batch_size,
        precision=params.synthesize.precision,
        seed=params.run.seed,
        use_gpu=params.synthesize.use_gpu,
    )


def restored_config_hash(params: Params, prior: Path) -> str:
    """Identity of what decides the restored bytes, beside the input shard.

    Raises:
        DataError: the prior works at another size than the faces have.
    """
    card = read_card(prior)
    _, size = network_of(card.config)
    if size != params.run.size:
        raise DataError(f"{prior}: made for faces of {size} pixels, run.size is {params.run.size}")
    parts = {
        "prior": card.sha256,
        "network": dict(card.config),
        "degradation": asdict(params.degradation.large),
        "kernel_size": params.degradation.kernel_size,
        "variants": params.synthesize.variants,
        "held_out_variants": HELD_OUT_VARIANTS,
        "batch_size": params.synthesize.batch_size,  # sums in another order round differently
        "precision": params.synthesize.precision,
        "use_gpu": params.synthesize.use_gpu,
        "seed": params.run.seed,
    }
    return fingerprint("restored", parts, code=[__name__])


def plan_from(source: Path) -> list[TarTask]:
    """One task per shard in the manifest of `source`, a stage's folder.

    Raises:
        DataError: the stage has not been run.
    """
    rows = Manifest.load(source).shards.values()
    if not rows:
        raise DataError(f"{source}: no manifest with shards; run the stage that writes it")
    return [
        TarTask(row.split, row.shard, row.sha256, str(shard_path(source.resolve(), row.split, row.shard)))
        for row in sorted(rows)
    ]


def keys_of(task: TarTask) -> list[str]:
    """The keys of a task's input shard, ascending."""
    return list(dict.fromkeys(member.key for member in scan_shard(Path(task.source))))


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


def autocast_of(precision: str, like: Tensor) -> AbstractContextManager[object]:
    """bf16 autocast on the tensor's device, or nothing."""
    return torch.autocast(like.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

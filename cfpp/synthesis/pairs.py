"""The pair stage: warp I_G onto I_F and make the anchor-positive, I_AP = M I_F + (1 - M) I_warp."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cfpp.config import Params
from cfpp.data.components import component_mask
from cfpp.data.fingerprint import fingerprint
from cfpp.data.pictures import Picture, decode, encode_png, to_pictures, to_tensor
from cfpp.data.shards import read_shard
from cfpp.models.dam import DAM, load_dam, warp_picture
from cfpp.models.weights import read_card
from cfpp.storage import local_folder, place_of
from cfpp.synthesis.shard_work import Made, Refused, reason_of
from cfpp.synthesis.tars import TarTask, device_of, finite_rows, groups, keys_of

MASK_KIND = "template"
"""Masks are boxes about the five-point template of aligned faces; no parser is involved."""


@dataclass(frozen=True)
class PairSpec:
    """Recipe of a `PairWorker`.

    Attributes:
        dam: folder of the DAM's weights, in storage that every worker sees.
        feather: mask edge, share of the side.
        batch_size: pictures per forward of the DAM.
    """

    dam: str
    feather: float
    batch_size: int
    use_gpu: bool

    def build(self) -> "PairWorker":
        """Load the DAM onto the worker's device."""
        return PairWorker(self, load_dam(local_folder(place_of(self.dam))).to(device_of(self.use_gpu)))


class PairWorker:
    """Makes `{variant}.warp.png`, `.ap.png` and `.mask.png` of each restored face."""

    def __init__(self, spec: PairSpec, dam: DAM) -> None:
        self.spec, self.dam = spec, dam

    def keys(self, task: TarTask) -> Sequence[str]:
        """The keys of the input shard."""
        return keys_of(task.source)

    def process(self, task: TarTask) -> Iterator[Made | Refused]:
        """Each face with all its variants, or refused whole. Batches never span shards."""
        faces = read_shard(Path(task.source), task.input_sha256)
        for group in groups(faces, self.spec.batch_size):
            pairs: list[tuple[str, str, Picture, Picture]] = []
            for key, members in group:
                try:
                    pairs += [
                        (key, v, decode(members[f"{v}.id.png"]), decode(members[f"{v}.gp.png"]))
                        for v in _variants(members)
                    ]
                except Exception as error:  # one face must not cost the others theirs
                    yield Refused(key, task.place, reason_of(error))
            yield from self._pair(task, pairs)

    def _pair(
        self, task: TarTask, pairs: list[tuple[str, str, Picture, Picture]]
    ) -> Iterator[Made | Refused]:
        made: dict[str, dict[str, bytes]] = {}
        broken: set[str] = set()
        device = device_of(self.spec.use_gpu)
        for start in range(0, len(pairs), self.spec.batch_size):
            batch = pairs[start : start + self.spec.batch_size]
            i_f = to_tensor(np.stack([id_ for _, _, id_, _ in batch])).to(device)
            i_g = to_tensor(np.stack([gp for *_, gp in batch])).to(device)
            mask_picture = _mask(i_f.shape[-1], self.spec.feather)
            # The stored mask, not the exact one: so I_AP can be recomputed from what is stored.
            mask = torch.from_numpy(mask_picture).to(device).float() / 255.0
            with torch.inference_mode():
                warped = warp_picture(i_g, self.dam(i_g, i_f))
                positive = mask * i_f + (1.0 - mask) * warped
            mask_png = encode_png(mask_picture)
            for (key, variant, _, _), fine, warp_, ap in zip(
                batch, finite_rows(warped).tolist(), to_pictures(warped), to_pictures(positive), strict=True
            ):
                if not fine:
                    broken.add(key)
                made.setdefault(key, {}).update(
                    {
                        f"{variant}.warp.png": encode_png(warp_),
                        f"{variant}.ap.png": encode_png(ap),
                        f"{variant}.mask.png": mask_png,
                    }
                )
        for key, members in made.items():
            if key in broken:
                yield Refused(key, task.place, "the DAM gave values that are not finite")
            else:
                yield Made(key, members)


def pair_spec(params: Params, dam: str | Path) -> PairSpec:
    """The worker's recipe for these params and the DAM's place."""
    return PairSpec(str(dam), params.pair.feather, params.pair.batch_size, params.pair.resources.gpus > 0)


def pair_config_hash(params: Params, dam: Path) -> str:
    """Identity of what decides the pairs' bytes, beside the input shard."""
    card = read_card(dam)
    parts = {
        "dam": card.sha256,
        "network": dict(card.config),
        "mask": MASK_KIND,
        "feather": params.pair.feather,
        "batch_size": params.pair.batch_size,
        "use_gpu": params.pair.resources.gpus > 0,
    }
    return fingerprint("pairs", parts, code=[__name__])


def _variants(members: dict[str, bytes]) -> list[str]:
    found = sorted({name.split(".")[0] for name in members if name.endswith(".id.png")}, key=int)
    if not found:
        raise ValueError("no restored picture")
    return found


def _mask(size: int, feather: float) -> Picture:
    mask: Picture = np.rint(component_mask(size, feather) * 255.0).astype(np.uint8)
    return mask

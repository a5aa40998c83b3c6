"""The degraded faces: for each clean one as many as there are variants, drawn by (seed, key, variant)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from cfpp.config import DegradationRange, Params
from cfpp.data.degradation import Degradation, apply, draw
from cfpp.data.degradation_batch import apply_batch
from cfpp.data.draws import generator
from cfpp.data.pictures import Picture, encode_png

HELD_OUT_VARIANTS = 1
"""Degradations per face of val and test: one, so that a held-out face counts once in every metric."""


@dataclass(frozen=True)
class Degraded:
    """One variant of a face.

    Attributes:
        key, variant: which.
        drawn: what it was degraded by.
        picture: I_LQ, uint8 [S, S, 3].
    """

    key: str
    variant: int
    drawn: Degradation
    picture: Picture

    @property
    def name(self) -> str:
        """What files of it are called elsewhere, without the suffix."""
        return f"{self.key}.{self.variant}"

    def members(self, i_f: Picture, i_g: Picture) -> dict[str, bytes]:
        """The columns of this variant: `{variant}.lq.png`, `.id.png`, `.gp.png` and `.draw.json`."""
        return {
            f"{self.variant}.lq.png": encode_png(self.picture),
            f"{self.variant}.id.png": encode_png(i_f),
            f"{self.variant}.gp.png": encode_png(i_g),
            f"{self.variant}.draw.json": json.dumps(asdict(self.drawn), sort_keys=True).encode(),
        }


@dataclass(frozen=True)
class Degrader:
    """Draws degradations.

    Attributes:
        seed: `run.seed`.
        limits: what is drawn from.
        kernel_size: side of the blur kernel at 512, pixels.
        train_variants: degradations per train face; held-out ones get `HELD_OUT_VARIANTS`.
    """

    seed: int
    limits: DegradationRange
    kernel_size: int
    train_variants: int

    def variants(self, split: str) -> int:
        """Degradations per face of a split."""
        return self.train_variants if split == "train" else HELD_OUT_VARIANTS

    def degrade(self, key: str, hq: Picture, split: str) -> list[Degraded]:
        """All variants of the clean face `hq`, uint8 [S, S, 3]."""
        return [
            Degraded(key, variant, drawn, apply(hq, drawn, rng, kernel_size=self.kernel_size))
            for variant, drawn, rng in self._draws(key, split)
        ]

    def degrade_on(
        self, device: torch.device, faces: Sequence[tuple[str, Picture]], split: str
    ) -> list[Degraded]:
        """All variants of (key, clean face) pairs at once, on a GPU: the same but for rounding."""
        jobs = [(key, hq, *job) for key, hq in faces for job in self._draws(key, split)]
        if not jobs:
            return []
        keys, pictures, variants, drawn, rngs = zip(*jobs, strict=True)
        clean = torch.from_numpy(np.stack(pictures)).to(device)
        degraded = apply_batch(clean, drawn, rngs, kernel_size=self.kernel_size).cpu().numpy()
        return [Degraded(*one) for one in zip(keys, variants, drawn, degraded, strict=True)]

    def _draws(self, key: str, split: str) -> Iterator[tuple[int, Degradation, np.random.Generator]]:
        """(variant, what it is degraded by, source of its noise)."""
        for variant in range(self.variants(split)):
            rng = generator(self.seed, "degradation", key, variant)
            yield variant, draw(self.limits, rng), rng


def degrader(params: Params) -> Degrader:
    """What these params ask for."""
    degradation = params.degradation
    return Degrader(params.run.seed, degradation.large, degradation.kernel_size, params.synthesize.variants)

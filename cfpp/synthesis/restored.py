"""The synthesize stage with CodeFormer as the prior: degrade each face, restore it both ways."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfpp.config import Params
from cfpp.data.fingerprint import fingerprint
from cfpp.data.pictures import Picture, decode
from cfpp.data.shards import DataError, read_shard
from cfpp.models.prior import load_prior, network_of
from cfpp.models.weights import read_card
from cfpp.storage import local_folder, place_of
from cfpp.synthesis.degraded import Degraded, Degrader, degrader
from cfpp.synthesis.forward import JointForward
from cfpp.synthesis.shard_work import Made, Refused, reason_of
from cfpp.synthesis.tars import TarTask, device_of, groups, keys_of


@dataclass(frozen=True)
class RestoredSpec:
    """Recipe of a `RestoredWorker`.

    Attributes:
        prior: model folder of the prior, in storage that every worker sees.
        degrader: makes the degraded faces.
        batch_size: pictures per forward of the prior.
        precision, channels_last, compiled: see `JointForward`.
    """

    prior: str
    degrader: Degrader
    batch_size: int
    precision: str
    channels_last: bool
    compiled: bool
    use_gpu: bool

    def build(self) -> "RestoredWorker":
        """Load the prior onto the worker's device."""
        forward = JointForward(
            load_prior(local_folder(place_of(self.prior))),
            device_of(self.use_gpu),
            precision=self.precision,
            channels_last=self.channels_last,
            compiled=self.compiled,
        )
        return RestoredWorker(self, forward)


class RestoredWorker:
    """Makes the columns lq, id, gp and draw of each variant of each face."""

    def __init__(self, spec: RestoredSpec, forward: JointForward) -> None:
        self.spec, self.forward = spec, forward

    def keys(self, task: TarTask) -> Sequence[str]:
        """The keys of the input shard."""
        return keys_of(task.source)

    def process(self, task: TarTask) -> Iterator[Made | Refused]:
        """Each face with all its variants, or refused whole. Batches never span shards."""
        degrader, device = self.spec.degrader, self.forward.device
        size = max(1, self.spec.batch_size // degrader.variants(task.split))
        for group in groups(read_shard(Path(task.source), task.input_sha256), size):
            degraded: list[Degraded] = []
            waiting: list[tuple[str, Picture]] = []  # for a GPU, which degrades a group at once
            for key, members in group:
                try:
                    hq = decode(members["hq.png"])
                    if device.type == "cpu":
                        degraded += degrader.degrade(key, hq, task.split)
                    else:
                        waiting.append((key, hq))
                except Exception as error:  # one face must not cost the others theirs
                    yield Refused(key, task.place, reason_of(error))
            yield from self._restore(task, degraded + degrader.degrade_on(device, waiting, task.split))

    def _restore(self, task: TarTask, degraded: list[Degraded]) -> Iterator[Made | Refused]:
        made: dict[str, dict[str, bytes]] = {}
        broken: set[str] = set()
        # More variants than the batch holds: a face's group is still cut to the batch size.
        for start in range(0, len(degraded), self.spec.batch_size):
            batch = degraded[start : start + self.spec.batch_size]
            restored = self.forward(np.stack([item.picture for item in batch]))
            for item, i_f, i_g, finite in zip(
                batch, restored.id, restored.gp, restored.finite.tolist(), strict=True
            ):
                if not finite:
                    broken.add(item.key)
                made.setdefault(item.key, {}).update(item.members(i_f, i_g))
        for key, members in made.items():
            if key in broken:
                yield Refused(key, task.place, "the prior gave values that are not finite")
            else:
                yield Made(key, members)


def restored_spec(params: Params, prior: str | Path) -> RestoredSpec:
    """The worker's recipe for these params and the prior's place."""
    section = params.synthesize
    return RestoredSpec(
        prior=str(prior),
        degrader=degrader(params),
        batch_size=section.batch_size,
        precision=section.precision,
        channels_last=section.channels_last,
        compiled=section.compile,
        use_gpu=section.resources.gpus > 0,
    )


def restored_config_hash(params: Params, prior: Path) -> str:
    """Identity of what decides the restored bytes, beside the input shard.

    Raises:
        DataError: the prior works at another size than the faces have.
    """
    card = read_card(prior)
    _, size = network_of(card.config, prior)
    if size != params.run.size:
        raise DataError(f"{prior}: made for faces of {size} pixels, run.size is {params.run.size}")
    # By content and not by place; the batch size counts, for sums in another order round differently.
    spec = restored_spec(params, card.sha256)
    return fingerprint("restored", spec, card.config, code=[__name__])

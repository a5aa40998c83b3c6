"""The clean faces' codes in the codebook of stage 1, once per face and for its mirror image: data/codes.

Stages 2 and 3 of the prior learn to predict them; computing them at every step would run the encoder of
stage 1 over the same faces again and again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cfpp.data.fingerprint import fingerprint
from cfpp.data.pictures import decode, to_tensor
from cfpp.data.samples import encode_codes
from cfpp.data.shards import read_shard
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.prior import load_stage_one
from cfpp.storage import local_folder, place_of
from cfpp.synthesis.shard_work import Made, Refused, reason_of
from cfpp.synthesis.tars import TarTask, device_of, groups, keys_of
from cfpp.training_params import NetworkParams

CODES_BATCH = 16
"""Faces per forward: fixed, since sums in another order round differently."""


@dataclass(frozen=True)
class CodesSpec:
    """Recipe of a `CodesWorker`.

    Attributes:
        codebook: model folder of stage 1, absolute.
        network: its geometry.
        image_size: side of the faces, pixels.
    """

    codebook: str
    network: NetworkParams
    image_size: int
    use_gpu: bool

    def build(self) -> "CodesWorker":
        """Load stage 1 onto the worker's device.

        Raises:
            WeightsError: it does not fit or was never trained.
        """
        model = load_stage_one(local_folder(place_of(self.codebook)), self.network, self.image_size)
        return CodesWorker(model.to(device_of(self.use_gpu)))


class CodesWorker:
    """Makes `codes.npy` of each clean face: uint16 [2, 256], as it is and mirrored."""

    def __init__(self, model: VQAutoEncoder) -> None:
        self.model = model

    def keys(self, task: TarTask) -> Sequence[str]:
        """The keys of the input shard."""
        return keys_of(task.source)

    def process(self, task: TarTask) -> Iterator[Made | Refused]:
        """Each face once. Batches never span shards."""
        for group in groups(read_shard(Path(task.source), task.input_sha256), CODES_BATCH):
            keys, pictures = [], []
            for key, members in group:
                try:
                    pictures.append(decode(members["hq.png"]))
                    keys.append(key)
                except Exception as error:  # one face must not cost the others theirs
                    yield Refused(key, task.place, reason_of(error))
            if keys:
                for key, codes in zip(keys, self._codes(np.stack(pictures)), strict=True):
                    yield Made(key, {"codes.npy": encode_codes(codes)})

    @torch.inference_mode()
    def _codes(self, pictures: np.ndarray) -> np.ndarray:
        device = next(self.model.parameters()).device
        hq = to_tensor(pictures).to(device)
        both = [self.model.quantize.encode(self.model.encoder(faces)) for faces in (hq, hq.flip(3))]
        return torch.stack(both, dim=1).cpu().numpy().astype(np.uint16)


def codes_config_hash(codebook_sha256: str, spec: CodesSpec) -> str:
    """Identity of what decides the codes, beside the input shard."""
    parts = {"codebook": codebook_sha256, "batch": CODES_BATCH, "use_gpu": spec.use_gpu}
    return fingerprint("codes", parts, spec.network, code=[__name__])

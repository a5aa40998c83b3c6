"""The synthesize stage's worker without its network; a module of its own, so that workers can import it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cfpp.config import load_params
from cfpp.data.pictures import Picture
from cfpp.synthesis.degraded import Degrader
from cfpp.synthesis.forward import Restored
from cfpp.synthesis.restored import RestoredSpec, RestoredWorker

REPOSITORY = Path(__file__).resolve().parents[1]


class NoPrior:
    """I_F and I_G are the degraded face."""

    device = torch.device("cpu")

    def __call__(self, lq: Picture) -> Restored:
        return Restored(lq, lq, np.ones(len(lq), bool))


@dataclass(frozen=True)
class NoPriorSpec:
    """`RestoredSpec` without the prior."""

    def build(self) -> RestoredWorker:
        params = load_params(REPOSITORY / "params.yaml")
        maker = Degrader(0, params.degradation.large, params.degradation.kernel_size, 1)
        spec = RestoredSpec("", maker, 16, "fp32", False, False, False)
        return RestoredWorker(spec, NoPrior())  # type: ignore[arg-type]

"""The prior's joint forward as the synthesize stage runs it: device, precision, layout, memory."""

import logging
import re
import resource
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cfpp.data.pictures import Picture, to_pictures, to_tensor
from cfpp.models.prior import Prior
from cfpp.synthesis.tars import finite_rows

log = logging.getLogger(__name__)

_FULL = re.compile("OutOfMemory|ALLOC_FAILED|ALLOCATION_FAILED|out of memory")


@dataclass(frozen=True)
class Restored:
    """One batch, restored both ways.

    Attributes:
        id, gp: I_F and I_G, uint8 [B, S, S, 3].
        finite: bool [B], whether every value of both was finite.
    """

    id: Picture
    gp: Picture
    finite: np.ndarray


class JointForward:
    """I_F and I_G of degraded faces, batch after batch.

    Where a GPU's memory does not hold a batch, it is halved, for this batch and those that follow, and the
    log says so: fewer faces at a time are slower, but nothing is lost.

    Args:
        prior: frozen; moved to the device.
        device: where it computes.
        precision: fp32, or bf16 autocast.
        channels_last: memory layout of weights and pictures; pays on GPUs.
        compiled: torch.compile the forward: minutes at the start, pays over tens of thousands of faces.
    """

    def __init__(
        self,
        prior: Prior,
        device: torch.device,
        *,
        precision: str = "fp32",
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        self.device, self.precision = device, precision
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        if isinstance(prior, torch.nn.Module):
            prior.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self._pair: Callable[[Tensor], tuple[Tensor, Tensor]] = prior.restore_pair
        # The compiler does not take parameters in inference mode.
        self._mode = torch.no_grad if compiled else torch.inference_mode
        if compiled:
            self._pair = torch.compile(prior.restore_pair)
        self.batch_limit: int | None = None  # faces; None until memory has run out
        self._reported = False

    def __call__(self, lq: Picture) -> Restored:
        """Restore ``lq``, uint8 [B, S, S, 3].

        Raises:
            torch.OutOfMemoryError: memory does not hold a single face.
        """
        parts, start = [], 0
        while start < len(lq):
            count = min(self.batch_limit or len(lq), len(lq) - start)
            part = self._try(lq[start : start + count])
            if part is None:
                self.batch_limit, self._reported = count // 2, False
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                log.warning(
                    "out of memory with %d faces at a time; going on with %d", count, self.batch_limit
                )
                continue
            parts.append(part)
            start += count
        return Restored(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("id", "gp", "finite"))
        )

    def _try(self, lq: Picture) -> Restored | None:
        """None if memory ran out; the error, whose frames hold what was computed, is gone by then."""
        try:
            return self._restore(lq)
        except RuntimeError as error:  # cuBLAS and cuDNN have no type of their own for it
            if not _FULL.search(f"{type(error).__name__} {error}") or len(lq) == 1:
                raise
            return None

    def _restore(self, lq: Picture) -> Restored:
        before = self._high_water()
        faces = to_tensor(lq)
        if self.device.type == "cuda":
            faces = faces.pin_memory()
        faces = faces.to(self.device, non_blocking=True, memory_format=self.layout)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with self._mode(), autocast:
            i_f, i_g = self._pair(faces)
        finite = finite_rows(i_f) & finite_rows(i_g)
        restored = Restored(to_pictures(i_f), to_pictures(i_g), finite.numpy())
        if not self._reported:
            self._reported = True
            peak, count = self._high_water(), len(lq)
            log.info(
                "%d faces at a time: memory %.0f MiB at the peak, %.1f a face",
                count,
                peak,
                (peak - before) / count,
            )
        return restored

    def _high_water(self) -> float:
        """The most memory, MiB, that the GPU's tensors have taken, or on the CPU the whole process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

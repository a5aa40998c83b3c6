"""Batches read ahead of the step that needs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cfpp.objectives.base import Batch
from cfpp.training.job import BatchSource

AHEAD = 3


@dataclass(frozen=True)
class Placement:
    """Where and how the tensors of a batch lie.

    Attributes:
        device: of the model.
        channels_last: lay pictures [B, C, H, W] out channels last.
    """

    device: torch.device
    channels_last: bool

    def __call__(self, batch: Batch) -> dict[str, Any]:
        return {name: self._place(value) for name, value in batch.items()}

    def _place(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if self.device.type == "cuda":
            value = value.pin_memory()
        if self.channels_last and value.ndim == 4:
            return value.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return value.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class MicroBatches(Dataset[Batch]):
    """What one worker is fed: item i is micro-batch i % accumulate of step i // accumulate.

    Micro-batch m of rank r is part r * accumulate + m of the global batch, so that accumulating and adding
    workers mean the same thing.
    """

    source: BatchSource
    rank: int
    accumulate: int

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.accumulate)
        return self.source.batch(step, self.rank * self.accumulate + micro)


def micro_batches(
    feed: MicroBatches, start: int, stop: int, place: Callable[[Batch], Batch], loader_workers: int
) -> Generator[Batch]:
    """The items ``start`` to ``stop`` - 1 of ``feed``, placed, in order, read ahead.

    Args:
        feed: random access to micro-batches.
        start, stop: items, not steps.
        place: applied in the reading thread.
        loader_workers: processes that decode; 0 = one thread of this process.
    """
    if loader_workers == 0:
        return _read_ahead((feed[index] for index in range(start, stop)), place)
    loader: DataLoader[Batch] = DataLoader(
        feed,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=loader_workers,
        collate_fn=_as_is,
        # Forking a process in which Ray and torch run threads can dead-lock.
        multiprocessing_context="spawn",
        prefetch_factor=AHEAD,
    )
    return _read_ahead(iter(loader), place)


def _as_is(batch: Any) -> Any:
    return batch


def _read_ahead(batches: Iterator[Batch], place: Callable[[Batch], Batch]) -> Generator[Batch]:
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for batch in batches:
                put(place(batch))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the training thread, which raises it
            put(error)

    thread = threading.Thread(target=read, name="cfpp-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)

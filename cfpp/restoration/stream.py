"""Many files through a restorer: read ahead, restored in batches across files, written behind.

Threads read and write while others run the model: on a CPU one for each core, since two small batches on a
core each take less time than one after the other on two. What is in memory at a time is bounded by number and
by pixels, however many files there are. Every file has one outcome, and none stops the others.
"""

import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
import torch

from cfpp.data.picture_files import PictureFile, count_pixels, read_picture_file, write_picture_file
from cfpp.data.pictures import Picture
from cfpp.data.work_list import Work
from cfpp.errors import MendableError
from cfpp.files import replacing
from cfpp.restoration.tasks import Prepared, Task

log = logging.getLogger(__name__)

PIXELS = 64_000_000
"""That may wait before the model, and again behind it; a larger picture waits alone."""

_COMPARED = 2048  # pixels, longer side of either half of a side-by-side picture

Status = Literal["restored", "copied", "skipped", "failed"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        work: the file.
        status: restored; copied, as it shows no face that could be restored; skipped, as its result is
            there already; or failed.
        faces: number of faces that were restored.
        notes: why, and what was altered.
        finished: seconds since the epoch.
    """

    work: Work
    status: Status
    faces: int
    notes: tuple[str, ...]
    finished: float


@dataclass(frozen=True)
class Settings:
    """How files are restored.

    Args:
        batch_size: faces per forward pass.
        w: 0 to 1; see `cfpp.restoration.restorer`.
        overwrite: replace results that are there.
        compare: folder for side-by-side pictures; None: make none.
        readers, writers: number of threads.
        models: number of threads that run the model, which share the cores; one for a GPU.
    """

    batch_size: int = 8
    w: float = 0.0
    overwrite: bool = False
    compare: Path | None = None
    readers: int = 2
    writers: int = 2
    models: int = 1


Model = Callable[..., Picture]
"""`Restorer.restore` or `Restorer.fuse`: stacks of faces, batch_size and w in, restored faces out."""


def restore_files(works: Sequence[Work], task: Task, model: Model, settings: Settings) -> Iterator[Outcome]:
    """Restore files; one outcome for each, about in their order, as they come about.

    Results appear whole or not at all, and replace none that was there unless the settings say so.
    """
    threads = torch.get_num_threads()
    with (
        ThreadPoolExecutor(settings.readers, "read") as readers,
        ThreadPoolExecutor(
            settings.models, "model", torch.set_num_threads, (max(1, threads // settings.models),)
        ) as models,
        ThreadPoolExecutor(settings.writers, "write") as writers,
    ):
        try:
            read = _in_order(
                readers,
                lambda work: _prepare(work, task, settings),
                works,
                weigh=lambda work: count_pixels(work.source),
                most=settings.batch_size + settings.readers,
            )
            restored = _in_order(
                models,
                lambda group: list(_run(group, model, settings)),
                _grouped(read, settings),
                weigh=lambda group: 0 if isinstance(group, Outcome) else sum(one.pixels for one in group),
                most=settings.models,
            )
            yield from _in_order(
                writers,
                lambda item: _write(item, task, settings),
                chain.from_iterable(restored),
                weigh=lambda item: 0 if isinstance(item, Outcome) else item[0].pixels,
                most=settings.batch_size + settings.writers,
            )
        finally:  # an interrupted caller waits for what is being written, not for what is in the queue
            for pool in (readers, models, writers):
                pool.shutdown(wait=False, cancel_futures=True)
            torch.set_num_threads(threads)


def model_threads(device: torch.device) -> int:
    """How many threads should run a model: one for a GPU; on the CPU one for each core, and 8 at most, since
    each holds a batch."""
    return min(8, torch.get_num_threads()) if device.type == "cpu" else 1


def compare_path(compare: Path, work: Work) -> Path:
    """Where a file's side-by-side picture goes; its own ending stays in the name, so that none meet."""
    return compare / f"{work.name}.jpg"


def _in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    weigh: Callable[[T], int],
    most: int,
) -> Iterator[R]:
    """`map` in a pool's threads that takes items only as there is room: `most`, and `PIXELS`."""
    waiting: deque[tuple[Future[R], int]] = deque()
    held = 0
    for item in items:
        weight = weigh(item)
        while waiting and (waiting[0][0].done() or len(waiting) >= most or held + weight > PIXELS):
            future, freed = waiting.popleft()
            held -= freed
            yield future.result()
        waiting.append((pool.submit(function, item), weight))
        held += weight
        del item  # a generator that waits must not hold a picture
    while waiting:
        yield waiting.popleft()[0].result()


def _prepare(work: Work, task: Task, settings: Settings) -> Prepared | Outcome:
    there = [work.target, *([compare_path(settings.compare, work)] if settings.compare else [])]
    if not settings.overwrite and (found := [path for path in there if os.path.lexists(path)]):
        return _outcome(work, "skipped", f"{found[0]} is there already")
    try:
        return task.prepare(work, read_picture_file(work.source.read_bytes()))
    except Exception as error:
        return _failed(work, error)


def _grouped(
    prepared: Iterable[Prepared | Outcome], settings: Settings
) -> Iterator[Sequence[Prepared] | Outcome]:
    """The files whose faces go through the model together; the first goes alone, to be there soon."""
    group: list[Prepared] = []
    enough = 1
    for item in prepared:
        if isinstance(item, Outcome):
            yield item
        elif not item.faces:
            yield [item]
        else:
            group.append(item)
        if sum(one.faces for one in group) >= enough or sum(one.pixels for one in group) >= PIXELS:
            yield group
            group = []
            enough = settings.batch_size
        del item
    if group:
        yield group


def _run(
    group: Sequence[Prepared] | Outcome, model: Model, settings: Settings
) -> Iterator[tuple[Prepared, Picture] | Outcome]:
    if isinstance(group, Outcome):
        yield group
        return
    if not any(one.faces for one in group):
        yield from ((one, one.stacks[0]) for one in group)
        return
    try:
        stacks = [np.concatenate(parts) for parts in zip(*(one.stacks for one in group), strict=True)]
        restored = model(*stacks, batch_size=settings.batch_size, w=settings.w)
    except Exception as error:
        if len(group) == 1 and (settings.batch_size == 1 or group[0].faces == 1):
            yield _failed(group[0].work, error)
            return
        log.info("%d faces at once failed (%s); each file alone now", sum(p.faces for p in group), error)
        for one in group:
            yield from _run([one], model, replace(settings, batch_size=1))
        return
    ends = np.cumsum([one.faces for one in group])
    yield from zip(group, np.split(restored, ends[:-1]), strict=True)


def _write(item: tuple[Prepared, Picture] | Outcome, task: Task, settings: Settings) -> Outcome:
    if isinstance(item, Outcome):
        return item
    prepared, restored = item
    work = prepared.work
    try:
        if not prepared.faces:
            with replacing(work.target) as partial:
                shutil.copyfile(work.source, partial)
            return _outcome(work, "copied", *(prepared.notes or ("no face found",)))
        picture = task.finish(prepared, restored)
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(work.target))
            write_picture_file(partial, picture, prepared.file)
            if settings.compare:
                partial = stack.enter_context(replacing(compare_path(settings.compare, work)))
                write_picture_file(partial, *_side_by_side(prepared.file, picture))
    except Exception as error:
        return _failed(work, error)
    notes = (*filter(None, [prepared.file.note]), *prepared.notes)
    return _outcome(work, "restored", *notes, faces=prepared.faces)


def _side_by_side(file: PictureFile, picture: Picture) -> tuple[Picture, PictureFile]:
    """The file's picture and what was made of it, at one size, and how to save the two: as JPEG."""
    height, width = picture.shape[:2]
    factor = min(1.0, _COMPARED / max(height, width))
    size = (max(1, round(factor * width)), max(1, round(factor * height)))
    halves = [
        cv2.resize(half, size, interpolation=cv2.INTER_AREA if half.shape[1] > size[0] else cv2.INTER_LINEAR)
        for half in (file.rgb, picture)
    ]
    profile = {name: value for name, value in file.extras.items() if name == "icc_profile"}
    how = replace(file, alpha=None, format="JPEG", extras={"quality": 92, **profile})
    return np.asarray(np.hstack(halves), np.uint8), how


def _outcome(work: Work, status: Status, *notes: str, faces: int = 0) -> Outcome:
    return Outcome(work, status, faces, notes, time.time())


def _failed(work: Work, error: Exception) -> Outcome:
    """An error as an outcome; one that the person cannot mend is logged with its traceback, too."""
    if isinstance(error, MendableError):
        return _outcome(work, "failed", str(error))
    if isinstance(error, OSError):
        return _outcome(work, "failed", f"{error.filename or work.source}: {error.strerror or error}")
    log.debug("%s", work.source, exc_info=error)
    return _outcome(work, "failed", f"{type(error).__name__}: {error}")

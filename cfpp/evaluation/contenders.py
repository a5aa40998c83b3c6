"""Restorers on the same test set of the project: their scores, face by face, and their latency."""

import hashlib
import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cfpp.data.pictures import Picture, resize_square
from cfpp.data.samples import SampleStore
from cfpp.evaluation.measure import Instruments
from cfpp.evaluation.table import figure_rows
from cfpp.progress import progress_bar
from cfpp.restoration.restorer import Restorer

_WARM_UP, _TURNS = 2, 7


@dataclass(frozen=True)
class Scores:
    """What restorers reach on a test set.

    Attributes:
        rows: key, variant, person, kind (the restorer's name) and every full-reference metric of I_out.
        sha256: of all pictures that were read, in order: the same for the same test set.
        size: side of I_HQ, pixels.
        latency: restorer to seconds a face at batch 1, median.
    """

    rows: pd.DataFrame
    sha256: str
    size: int
    latency: dict[str, float]


def columns_for(restorers: Iterable[Restorer]) -> tuple[str, ...]:
    """The pictures that these restorers need, and the truth."""
    paired = any(restorer.prior is None for restorer in restorers)
    return ("hq", "lq", "id", "gp") if paired else ("hq", "lq")


def score(
    store: SampleStore, restorers: Mapping[str, Restorer], instruments: Instruments, batch_size: int
) -> Scores:
    """Restore a test set with every restorer and measure it against I_HQ.

    I_LQ goes in, or I_F and I_G where a restorer has no prior of its own. What a restorer makes at another
    size is brought to that of I_HQ.

    Args:
        store: of the test split, with `columns_for` these restorers.
        restorers: by name.
        batch_size: faces at a time.

    Raises:
        ShardError: its data is damaged.
        MetricError, PerceptualError: a metric is not defined on a picture.
    """
    digest, frames = hashlib.sha256(), list[pd.DataFrame]()
    first = _stacked(store, range(1))
    starts = range(0, len(store), batch_size)
    with closing(progress_bar(len(starts), "restore the test set", "batch")) as bar:
        for start in starts:
            places = range(start, min(start + batch_size, len(store)))
            pictures = _stacked(store, places)
            for place in range(len(places)):
                for name in store.columns:
                    digest.update(pictures[name][place].tobytes())
            truth = pictures["hq"]
            figures = {
                name: instruments.against(_at(_restored(restorer, pictures), truth.shape[1]), truth)
                for name, restorer in restorers.items()
            }
            keys, variants = zip(*(store.items[place] for place in places), strict=True)
            people = [store[place].identity for place in places]
            frames.append(figure_rows(list(keys), list(variants), people, figures))
            bar.update(1)
    rows = pd.concat(frames, ignore_index=True)
    return Scores(rows, digest.hexdigest(), first["hq"].shape[1], latencies(restorers, first))


def latencies(restorers: Mapping[str, Restorer], face: Mapping[str, Picture]) -> dict[str, float]:
    """Seconds for one face, median of turns that the restorers take after each other, warm.

    Args:
        face: lq, or id and gp for a restorer without a prior, uint8 [1, S, S, 3].
    """
    seconds: dict[str, list[float]] = {name: [] for name in restorers}
    for turn in range(_WARM_UP + _TURNS):
        for name, restorer in restorers.items():
            start = time.perf_counter()
            _restored(restorer, face)  # ends with the picture on the CPU: nothing runs on
            if turn >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


@torch.inference_mode()
def _restored(restorer: Restorer, pictures: Mapping[str, Picture]) -> Picture:
    if restorer.prior is None:
        return restorer.fuse(pictures["id"], pictures["gp"])
    return restorer.restore(pictures["lq"])


def _at(pictures: Picture, size: int) -> Picture:
    return np.stack([resize_square(picture, size) for picture in pictures])


def _stacked(store: SampleStore, places: range) -> dict[str, Picture]:
    read = [store.pictures(place) for place in places]
    return {name: np.stack([item[name] for item in read]) for name in store.columns}

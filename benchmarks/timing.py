"""Medians of interleaved runs: the baseline and the candidate take turns, so that drift hits both."""

import statistics
import time
from collections.abc import Callable


def ratio(
    baseline: Callable[[], object], candidate: Callable[[], object], runs: int = 7
) -> tuple[float, float]:
    """Median seconds of `baseline` and of `candidate`, one warm-up each, then `runs` turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        for function, list_ in zip((baseline, candidate), seconds, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                list_.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def report(what: str, baseline: float, candidate: float) -> None:
    """One line: both medians and the candidate's share of the baseline's time."""
    share = candidate / baseline
    print(f"{what}: {candidate * 1e3:.1f} ms against {baseline * 1e3:.1f} ms plain, ratio {share:.2f}")

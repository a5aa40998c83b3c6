"""What a contest comes to: means, intervals, differences from the baseline, and all that was not measured."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.contest import REFERENCE, Contest, LeftOut, Tally, measure
from cfpp.evaluation.distributions import InceptionFeatures, SetError, set_distance
from cfpp.evaluation.folders import FoldersError, Source
from cfpp.evaluation.measure import Instruments
from cfpp.evaluation.metrics import METRICS
from cfpp.evaluation.table import differences, means
from cfpp.evaluation.unavailable import Unavailable
from cfpp.models.catalogue import INCEPTION

_SETS = ("fid", "kid")


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        rows: one per face and restorer: key, variant (0), person, kind (the restorer) and the figures.
        summary: what metrics.json holds.
        faces: the stems that were measured, ascending.
        left_out: what could not be measured.
    """

    rows: pd.DataFrame
    summary: dict[str, Any]
    faces: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def hold(
    contest: Contest,
    instruments: Instruments,
    inception: InceptionFeatures | Unavailable,
    bootstrap: Bootstrap,
    batch_size: int,
) -> Outcome:
    """Measure every restorer.

    Raises:
        FoldersError: nothing is left to measure, or nothing to measure with.
    """
    if contest.reference is None:
        inception = Unavailable("needs --reference, a folder of real faces")
    missing = instruments.unavailable()
    if contest.truth is None and "niqe" in missing and isinstance(inception, Unavailable):
        raise FoldersError(
            f"nothing can be measured without --truth: niqe {missing['niqe']}; FID and KID want --reference"
        )
    tally = measure(
        contest, instruments, None if isinstance(inception, Unavailable) else inception, batch_size
    )
    rows = pd.concat(tally.frames, ignore_index=True) if tally.frames else pd.DataFrame()
    names = [entrant.name for entrant in contest.entrants]
    pairs = [(name, names[0]) for name in names[1:]]
    distances = inception if isinstance(inception, Unavailable) else _distances(names, tally, bootstrap.seed)
    if rows.empty and isinstance(distances, Unavailable):
        raise FoldersError(f"nothing can be measured without --truth; FID and KID: {distances.reason}")
    summary = {
        "restorers": means(rows, bootstrap, names) if len(rows) else {},
        "differences": differences(rows, bootstrap, pairs) if len(rows) else {},
        "distributions": {} if isinstance(distances, Unavailable) else distances,
        "instruments": _instruments(contest, instruments, distances),
        "unavailable": _unavailable(contest, instruments, distances),
        "left_out": {"count": len(tally.left_out), "pictures": [asdict(fault) for fault in tally.left_out]},
        "not_common": {name: list(stems) for name, stems in contest.faces.surplus.items()},
        "altered": tally.altered,
        "measured": _measured(contest, tally),
        "about": _about(contest, bootstrap, tally),
    }
    return Outcome(rows, summary, tuple(tally.faces), tuple(tally.left_out))


def _distances(names: Sequence[str], tally: Tally, seed: int) -> dict[str, Any] | Unavailable:
    """Restorer to FID and KID; or why the sets have none, which is no reason to withhold the rest."""
    if REFERENCE not in tally.features:
        return Unavailable("no picture of the reference can be used")
    reference = np.concatenate(tally.features[REFERENCE])
    try:
        return {
            name: asdict(set_distance(np.concatenate(tally.features[name]), reference, seed=seed))
            for name in names
        }
    except SetError as error:
        return Unavailable(str(error))


def _applicable(contest: Contest) -> set[str]:
    """The metrics that this contest could have with every instrument at hand."""
    against = {"", "I_HQ"} if contest.truth is not None else {""}
    return {metric.name for metric in METRICS if metric.against in against} - {"folded"}


def _instruments(
    contest: Contest, instruments: Instruments, distances: dict[str, Any] | Unavailable
) -> dict[str, str]:
    names = {name: tool for name, tool in instruments.names().items() if name in _applicable(contest)}
    if isinstance(distances, Unavailable):
        return names
    return names | dict.fromkeys(_SETS, INCEPTION[0].label)


def _unavailable(
    contest: Contest, instruments: Instruments, distances: dict[str, Any] | Unavailable
) -> dict[str, str]:
    """Metric to the reason why it is not in the table."""
    applicable = _applicable(contest)
    reasons = {name: why for name, why in instruments.unavailable().items() if name in applicable}
    if contest.truth is None:
        reasons |= {metric.name: "needs --truth" for metric in METRICS if metric.against == "I_HQ"}
    if isinstance(distances, Unavailable):
        reasons |= dict.fromkeys(_SETS, distances.reason)
    return reasons


def _measured(contest: Contest, tally: Tally) -> dict[str, Any]:
    """Each source: what it is, how many of its pictures count, and the sha256 of their sha256sum lines."""
    sources: list[Source] = [*contest.measured]
    if contest.reference is not None:
        sources.append(contest.reference)
    found = {}
    for source in sources:
        lines = sorted(tally.digests.get(source.name, []), key=lambda line: line.split("  ", 1)[1])
        digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        found[source.name] = {"origin": source.origin, "n": len(lines), "sha256": digest}
        if source.ignored:
            found[source.name]["ignored"] = list(source.ignored)
    return found


def _about(contest: Contest, bootstrap: Bootstrap, tally: Tally) -> dict[str, Any]:
    return {
        "restorers": [entrant.name for entrant in contest.entrants],
        "baseline": contest.entrants[0].name,
        "faces": len(tally.faces),
        "people": len({contest.people[stem] for stem in tally.faces}),
        "size": contest.size,
        "resized": contest.resize,
        "confidence": bootstrap.confidence,
        "bootstrap": bootstrap.resamples,
        "seed": bootstrap.seed,
    }

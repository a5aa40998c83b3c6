"""Several restorers on the same faces: reading and measuring what is compared.

Only faces that every restorer has, and that can be measured for each of them, count: comparisons are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cfpp.data.folder import people_in
from cfpp.data.pictures import PictureError
from cfpp.errors import MendableError
from cfpp.evaluation.distributions import InceptionFeatures
from cfpp.evaluation.folders import FoldersError, Match, PictureFolder, Reading, Source
from cfpp.evaluation.measure import Figures, Instruments
from cfpp.evaluation.table import figure_rows
from cfpp.progress import progress_bar

REFERENCE = "reference"


@dataclass(frozen=True)
class LeftOut:
    """A picture that could not be measured; of truth or restorer, it costs all restorers that face."""

    stem: str
    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.stem} of {self.source}: {self.reason}"


@dataclass(frozen=True)
class Contest:
    """What is compared.

    Attributes:
        entrants: the restorers; the first is the baseline.
        truth: I_HQ; None for no-reference figures only.
        reference: real faces that FID and KID compare with; None for neither.
        faces: which are measured.
        size: side of all pictures, pixels.
        resize: bring other sizes to it, rather than leave them out.
        people: see `people_of`; stem to person.
    """

    entrants: tuple[Source, ...]
    truth: Source | None
    reference: PictureFolder | None
    faces: Match
    size: int
    resize: bool
    people: dict[str, str]

    @property
    def measured(self) -> tuple[Source, ...]:
        """Truth and entrants."""
        return self.entrants if self.truth is None else (self.truth, *self.entrants)

    def read(self, source: Source, stem: str) -> Reading:
        """One picture at the contest's size.

        Raises:
            PictureError: it cannot be used.
            OSError: it cannot be read.
        """
        return source.read(stem).fitted(self.size, resize=self.resize)


@dataclass
class Tally:
    """What is gathered while the faces go by.

    Attributes:
        frames: of `figure_rows`, the restorer as the kind.
        left_out: what could not be measured.
        altered: source to stem to what was done to the picture.
        digests: source to lines of sha256 and stem.
        features: restorer, or `REFERENCE`, to features [B, D].
        faces: stems that were measured, ascending.
    """

    frames: list[pd.DataFrame] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    altered: dict[str, dict[str, str]] = field(default_factory=dict)
    digests: dict[str, list[str]] = field(default_factory=dict)
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)
    faces: list[str] = field(default_factory=list)

    def keep(self, source: str, stem: str, reading: Reading) -> None:
        self.digests.setdefault(source, []).append(f"{reading.sha256}  {stem}\n")
        if reading.altered:
            self.altered.setdefault(source, {})[stem] = reading.altered


def people_of(stems: Sequence[str], pattern: str) -> dict[str, str]:
    """Stem to person, see `people_in`; those whom the pattern does not find are each their own.

    Raises:
        FolderError: the pattern is none.
    """
    found = people_in({stem: stem for stem in stems}, pattern, "--people")
    return {stem: person or stem for stem, person in found.items()}


def measure(
    contest: Contest, instruments: Instruments, inception: InceptionFeatures | None, batch_size: int
) -> Tally:
    """Read and measure every face of every restorer, and the features of the reference.

    Args:
        inception: None computes no features.

    Raises:
        FoldersError: nothing is left to measure.
    """
    tally = Tally()
    stems = contest.faces.stems
    bar = progress_bar(-(-len(stems) // batch_size), "evaluate", "batch")
    for start in range(0, len(stems), batch_size):
        batch = stems[start : start + batch_size]
        _measure_batch(contest, instruments, inception, batch, tally)
        bar.update(1)
    bar.close()
    if not tally.faces:
        raise FoldersError(f"none of {len(stems)} faces can be measured; {tally.left_out[0]}")
    _measure_reference(contest, inception, batch_size, tally)
    return tally


def _measure_batch(
    contest: Contest,
    instruments: Instruments,
    inception: InceptionFeatures | None,
    stems: Sequence[str],
    tally: Tally,
) -> None:
    """Read, measure and keep the faces of a batch that all sources have in good order."""
    whole: dict[str, dict[str, Reading]] = {}
    for stem in stems:
        readings, faults = dict[str, Reading](), list[LeftOut]()
        for source in contest.measured:
            try:
                readings[source.name] = contest.read(source, stem)
            except (PictureError, OSError) as error:
                faults.append(LeftOut(stem, source.name, str(error)))
        tally.left_out += faults
        if not faults:
            whole[stem] = readings
    figures, unmeasured = _figures(contest, instruments, whole)
    tally.left_out += unmeasured
    kept = [stem for stem in whole if stem not in {fault.stem for fault in unmeasured}]
    if not kept:
        return
    tally.faces += kept
    for stem in kept:
        for name, reading in whole[stem].items():
            tally.keep(name, stem, reading)
    if any(figures.values()):
        people = [contest.people[stem] for stem in kept]
        tally.frames.append(figure_rows(kept, [0] * len(kept), people, figures))
    if inception is not None:
        for entrant in contest.entrants:
            pictures = np.stack([whole[stem][entrant.name].picture for stem in kept])
            tally.features.setdefault(entrant.name, []).append(inception.features(pictures))


def _figures(
    contest: Contest, instruments: Instruments, whole: dict[str, dict[str, Reading]]
) -> tuple[Figures, list[LeftOut]]:
    """Restorer to metric to values of the faces that have them all; and the faces that have not."""
    faults: list[LeftOut] = []
    found: dict[str, dict[str, dict[str, float]]] = {}
    for entrant in contest.entrants:
        try:
            found[entrant.name] = _of_faces(contest, instruments, entrant.name, whole)
        except MendableError:  # of one face or another: which, is found one by one
            found[entrant.name] = {}
            for stem, readings in whole.items():
                try:
                    found[entrant.name] |= _of_faces(contest, instruments, entrant.name, {stem: readings})
                except MendableError as error:
                    faults.append(LeftOut(stem, entrant.name, str(error)))
        for stem, own in found[entrant.name].items():
            if wrong := _not_finite(own):
                faults.append(LeftOut(stem, entrant.name, wrong))
    of_truth = _truth_faults(contest, instruments, {fault.stem: whole[fault.stem] for fault in faults})
    excused = {fault.stem for fault in of_truth}
    faults = of_truth + [fault for fault in faults if fault.stem not in excused]
    kept = [stem for stem in whole if stem not in {fault.stem for fault in faults}]
    figures: Figures = {
        name: {metric: np.array([own[stem][metric] for stem in kept]) for metric in own[kept[0]]}
        for name, own in found.items()
        if kept
    }
    return figures, faults


def _truth_faults(
    contest: Contest, instruments: Instruments, suspected: Mapping[str, Mapping[str, Reading]]
) -> list[LeftOut]:
    """Of these faces, those whose truth bears no comparison, even with itself: no restorer is to blame."""
    if contest.truth is None:
        return []
    faults = []
    for stem, readings in suspected.items():
        truth = readings[contest.truth.name].picture[None]
        try:
            own = instruments.against(truth, truth)
        except MendableError as error:
            faults.append(LeftOut(stem, contest.truth.name, str(error)))
            continue
        if wrong := _not_finite({metric: float(values[0]) for metric, values in own.items()}):
            faults.append(LeftOut(stem, contest.truth.name, wrong))
    return faults


def _not_finite(figures: Mapping[str, float]) -> str:
    """Which metrics are not finite; "" = none."""
    wrong = [metric for metric, value in figures.items() if not np.isfinite(value)]
    return f"{', '.join(wrong)} is not finite" if wrong else ""


def _of_faces(
    contest: Contest, instruments: Instruments, name: str, whole: dict[str, dict[str, Reading]]
) -> dict[str, dict[str, float]]:
    """Face to metric to value, of one restorer.

    Raises:
        MendableError: a metric is not defined on one of the pictures.
    """
    if not whole:
        return {}
    pictures = np.stack([readings[name].picture for readings in whole.values()])
    figures = instruments.alone(pictures)
    if contest.truth is not None:
        truth = np.stack([readings[contest.truth.name].picture for readings in whole.values()])
        figures = instruments.against(pictures, truth) | figures
    return {
        stem: {metric: float(values[place]) for metric, values in figures.items()}
        for place, stem in enumerate(whole)
    }


def _measure_reference(
    contest: Contest, inception: InceptionFeatures | None, batch_size: int, tally: Tally
) -> None:
    """Add the reference's features."""
    if contest.reference is None or inception is None:
        return
    stems = sorted(contest.reference.stems)
    bar = progress_bar(-(-len(stems) // batch_size), REFERENCE, "batch")
    for start in range(0, len(stems), batch_size):
        readings = []
        for stem in stems[start : start + batch_size]:
            try:
                reading = contest.read(contest.reference, stem)
            except (PictureError, OSError) as error:
                tally.left_out.append(LeftOut(stem, REFERENCE, str(error)))
                continue
            tally.keep(REFERENCE, stem, reading)
            readings.append(reading.picture)
        if readings:
            tally.features.setdefault(REFERENCE, []).append(inception.features(np.stack(readings)))
        bar.update(1)
    bar.close()

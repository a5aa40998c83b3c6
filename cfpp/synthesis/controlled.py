"""The controlled study: I_F and I_G made from I_HQ itself, so that the true flow between them is known.

It stands in for a prior as good as the paper's, and for none that exists; whatever is measured on it is to be
called controlled. Everything is a function of (seed, key, variant), but for the donor: that is drawn by
(seed, key) among the other people of the split, and one face more changes it only where that face wins.

- I_F is I_HQ over-smoothed: a bilateral filter, a Gaussian, and a share of I_LQ kept. No geometry changes.
- I_G before its deformation is I_HQ with the eyes, nose and mouth of another person of the same split, the
  donor's colours matched to the face's.
- I_G(y) is that picture at psi(y), a known deformation; phi = psi^-1 - id is the flow that takes it back:
  I_G(x + phi(x)) is the picture before its deformation.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cfpp.config import Params
from cfpp.data.components import component_mask
from cfpp.data.draws import generator, unit_hash
from cfpp.data.manifest import SPLITS, Manifest
from cfpp.data.pictures import Picture, encode_png
from cfpp.data.samples import SampleStore
from cfpp.data.shards import DataError
from cfpp.files import replacing
from cfpp.progress import progress_bar
from cfpp.storage import Place, place_of
from cfpp.synthesis.deformation import draw_deformation
from cfpp.synthesis.degraded import Degraded, degrader
from cfpp.synthesis.folder_prior import FLOWS, STUDY_FILE

PEAK = (0.015, 0.04)  # longest displacement, share of the side
REACH = (0.010, 0.020)  # deviation of the bilateral filter in space, share of the side
TONES = (25.0, 50.0)  # and in tone, levels of 255
BLUR = (0.003, 0.006)  # deviation of the Gaussian behind it, share of the side
KEPT = (0.05, 0.20)  # share of I_LQ in I_F: the degradation that a restoration keeps
FEATHER = (0.03, 0.08)  # edge of the donor's components, share of the side
STRENGTH = (0.85, 1.0)  # the donor's share inside them
WINDOW = 0.08  # deviation of the Gaussian window in which colours are matched, share of the side
GAIN = 2.0  # most by which the donor's contrast is raised or lowered
STEPS = 1024  # of the stored flow in a pixel: what is finer says nothing, and does not compress
COLUMNS = ("lq", "id", "gp")


@dataclass(frozen=True)
class Draw:
    """What one face is made by; lengths as shares of the side, but tones in levels of 255."""

    reach: float
    tones: float
    blur: float
    kept: float
    feather: float
    strength: float
    mirrored: bool
    peak: float


@dataclass(frozen=True)
class ControlledFace:
    """One variant of a face.

    Attributes:
        degraded: I_LQ, as the pipeline degrades the face.
        drawn: what it is made by.
        i_f: I_F, uint8 [S, S, 3].
        undeformed: I_G before its deformation, the same.
        i_g: I_G, the same.
        flow: phi, float32 [2, S, S], pixels, (row, column): I_G(x + phi(x)) = undeformed(x).
    """

    degraded: Degraded
    drawn: Draw
    i_f: Picture
    undeformed: Picture
    i_g: Picture
    flow: NDArray[np.float32]

    def files(self) -> dict[str, bytes]:
        """What is stored, by path below the study's folder."""
        name = self.degraded.name
        pictures = zip(COLUMNS, (self.degraded.picture, self.i_f, self.i_g), strict=True)
        return {f"{column}/{name}.png": encode_png(picture) for column, picture in pictures} | {
            f"{FLOWS}/{name}.npz": encode_flow(self.flow, self.i_g)
        }


def draw(seed: int, key: str, variant: int) -> Draw:
    """What one variant of a face is made by."""
    rng = generator(seed, "controlled", key, variant)
    return Draw(
        reach=rng.uniform(*REACH),
        tones=rng.uniform(*TONES),
        blur=rng.uniform(*BLUR),
        kept=rng.uniform(*KEPT),
        feather=rng.uniform(*FEATHER),
        strength=rng.uniform(*STRENGTH),
        mirrored=bool(rng.random() < 0.5),
        peak=rng.uniform(*PEAK),
    )


def donor_of(seed: int, key: str, people: Mapping[str, str]) -> str:
    """The key of the face whose components `key` gets: another person's, first by hash of (seed, both keys).

    So a face that comes or goes is the new or the old donor wherever it changes one.

    Args:
        people: the person of every face of the split, by key.

    Raises:
        DataError: the split has one person only.
    """
    others = [other for other, person in people.items() if person != people[key]]
    if not others:
        raise DataError(f"{key}: no other person in its split to take eyes, nose and mouth from; add faces")
    return min(others, key=lambda other: unit_hash(seed, "controlled donor", key, other))


def make_face(seed: int, hq: Picture, donor: Picture, degraded: Degraded) -> ControlledFace:
    """One variant of the clean face `hq`, with the components of the clean face `donor`."""
    drawn = draw(seed, degraded.key, degraded.variant)
    undeformed = with_components(hq, donor, drawn)
    rng = generator(seed, "controlled deformation", degraded.key, degraded.variant)
    deformation = draw_deformation(len(hq), drawn.peak * len(hq), rng)
    return ControlledFace(
        degraded=degraded,
        drawn=drawn,
        i_f=over_smoothed(hq, degraded.picture, drawn),
        undeformed=undeformed,
        i_g=deformation.apply(undeformed),
        flow=(np.rint(deformation.inverse() * STEPS) / STEPS).astype(np.float32),
    )


def over_smoothed(hq: Picture, lq: Picture, drawn: Draw) -> Picture:
    """I_F: (1 - kept) Gaussian(bilateral(I_HQ)) + kept I_LQ."""
    side = len(hq)
    reach = drawn.reach * side
    # The filter reads 2 deviations to each side.
    smooth = cv2.bilateralFilter(hq.astype(np.float32), 2 * round(2 * reach) + 1, drawn.tones, reach)
    smooth = cv2.GaussianBlur(smooth, (0, 0), drawn.blur * side)
    return _rounded((1 - drawn.kept) * smooth + drawn.kept * lq)


def with_components(hq: Picture, donor: Picture, drawn: Draw) -> Picture:
    """I_HQ with the donor's eyes, nose and mouth, its colours matched to the face's: see `_local`."""
    side = len(hq)
    own, other = (picture.astype(np.float32) for picture in (hq, donor[:, ::-1] if drawn.mirrored else donor))
    (mean, deviation), (other_mean, other_deviation) = (_local(picture) for picture in (own, other))
    gain = np.clip((deviation + 1) / (other_deviation + 1), 1 / GAIN, GAIN)
    matched = mean + gain * (other - other_mean)
    share = drawn.strength * component_mask(side, drawn.feather)[..., None]
    return _rounded((1 - share) * own + share * matched)


def write_study(params: Params, out: Path) -> dict[str, int]:
    """Make the study of every face in the shards below `out`: lq, id, gp, flow, draws.csv and study.json.

    The last is there only where the study is whole: an older one is removed first.

    Returns:
        Pictures made, by split.

    Raises:
        DataError: the stage shard has not been run, or a split has one person only.
    """
    root, seed, maker = place_of(params.storage.root), params.run.seed, degrader(params)
    splits, made = _splits(root), {}
    (out / STUDY_FILE).unlink(missing_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["key", "variant", "split", "donor", *(field.name for field in fields(Draw))])
    for folder in (*COLUMNS, FLOWS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for split in splits:
        store = SampleStore(root, split, ("hq",))
        places = {key: place for place, (key, _) in enumerate(store.items)}
        people = _people(store)
        made[split] = 0
        with closing(progress_bar(len(store), f"controlled {split}", "face")) as bar:
            for key, place in places.items():
                hq, donor = store.pictures(place)["hq"], donor_of(seed, key, people)
                other = store.pictures(places[donor])["hq"]
                for degraded in maker.degrade(key, hq, split):
                    face = make_face(seed, hq, other, degraded)
                    for name, data in face.files().items():
                        (out / name).write_bytes(data)
                    writer.writerow([key, degraded.variant, split, donor, *asdict(face.drawn).values()])
                    made[split] += 1
                bar.update(1)
    label = {"study": "controlled", "seed": seed, "size": params.run.size, "pictures": made}
    for name, text in (
        ("draws.csv", table.getvalue()),
        (STUDY_FILE, json.dumps(label, indent=2, sort_keys=True) + "\n"),
    ):
        with replacing(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return made


def encode_flow(flow: NDArray[np.float32], i_g: Picture) -> bytes:
    """A flow file: the flow, and the sha256 of the pixels of the I_G that it belongs to."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, flow=flow, i_g=np.array(picture_sha256(i_g)))
    return buffer.getvalue()


def read_flow(path: Path, i_g: Picture) -> NDArray[np.float32]:
    """The flow of a flow file, float32 [2, S, S], pixels, (row, column).

    Raises:
        DataError: there is no such file, it is damaged, or it belongs to another I_G than this.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            flow, owner = file["flow"], str(file["i_g"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such flow; write the study with cfpp controlled") from None
    except Exception as error:  # numpy and zipfile raise whatever a damaged byte leads them to
        raise DataError(f"{path}: damaged, not a flow: {' '.join(str(error).split())}") from error
    if owner != picture_sha256(i_g) or flow.shape != (2, *i_g.shape[:2]):
        raise DataError(
            f"{path}: the flow of another I_G than data/restored has; run synthesize on the same study"
        )
    found: NDArray[np.float32] = flow.astype(np.float32)
    return found


def picture_sha256(picture: Picture) -> str:
    """Identity of a picture's pixels."""
    return hashlib.sha256(picture.tobytes()).hexdigest()


def _splits(root: Place) -> Sequence[str]:
    """Those that have faces."""
    folder = root / "data/shards"
    manifest = Manifest.load(folder)
    found = [split for split in SPLITS if manifest.rows(split)]
    if not found:
        raise DataError(f"{folder}: no manifest with shards; run the stage that writes it")
    return found


def _people(store: SampleStore) -> dict[str, str]:
    """The person of every face, by key."""

    def watched() -> Iterator[tuple[str, str]]:
        with closing(progress_bar(len(store), f"people of {store.split}", "face")) as bar:
            for place in range(len(store)):
                sample = store[place]
                yield sample.key, sample.identity
                bar.update(1)

    return dict(watched())


def _local(picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of each channel and deviation [S, S, 1] of all of them, in a Gaussian window about each pixel."""
    sigma = WINDOW * len(picture)
    mean = cv2.GaussianBlur(picture, (0, 0), sigma)
    square = cv2.GaussianBlur(picture * picture, (0, 0), sigma)
    # One contrast for all channels: each on its own would give flat ones a colour cast.
    return mean, np.sqrt(np.maximum(square - mean * mean, 0).mean(2, keepdims=True))


def _rounded(picture: NDArray[np.float32]) -> Picture:
    pixels: Picture = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    return pixels

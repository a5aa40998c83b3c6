"""Test sets: clean faces with a fixed degradation, and the faces of raw photographs, aligned.

Either folder holds a `testset.json` that says what it was made of, what was left out and why.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cfpp.config import DegradationRange
from cfpp.data.align import AlignError, align
from cfpp.data.degradation import apply, draw
from cfpp.data.draws import generator
from cfpp.data.folder import Listing, list_faces, place_of_face
from cfpp.data.pictures import Picture, PictureError, decode_exactly, encode_png, resize_square
from cfpp.data.split import FaceRef
from cfpp.errors import MendableError
from cfpp.files import replacing
from cfpp.models.face_detector import CONFIDENCE, FaceDetector, Faces
from cfpp.progress import progress_bar
from cfpp.storage import read_bytes

log = logging.getLogger(__name__)

FACTS = "testset.json"
LEAST_SIDE = 16  # pixels, of a face in a photograph; a smaller one is a few pixels of no known person
WHOLE, CROPPED = "whole_imgs", "cropped_faces"  # of the archives of GFPGAN's test sets


class TestSetError(MendableError, ValueError):
    """No test set can be made; the message says why."""

    __test__ = False  # its name is no test's


@dataclass(frozen=True)
class TestSet:
    """What was made.

    Attributes:
        files: number of files that were read.
        faces: number of faces that were written.
        left_out: relative path of each file that gave no face, and the reason.
        faces_left_out: path and number of each face that was found and not written, and the reason.
        altered: relative path of each file that is not written as it was read, and what was done to it.
        ignored: relative paths of all that is no picture by its suffix.
    """

    __test__ = False

    files: int
    faces: int
    left_out: dict[str, str]
    faces_left_out: dict[str, str]
    altered: dict[str, str]
    ignored: tuple[str, ...]


def make_synthetic(
    folder: Path, out: Path, *, limits: DegradationRange, kernel_size: int, seed: int, size: int
) -> TestSet:
    """CelebA-Test style: every clean face of `folder` degraded once, as a function of (seed, key).

    Writes out/hq/{key}.png, out/lq/{key}.png and out/testset.json. The pipeline degrades a held-out face of
    the same key, seed, size and range in the same way. A picture that is not square loses its margins, and
    is named. What `decode_exactly` refuses is left out, and so is a picture of one colour.

    Args:
        folder: aligned clean faces, searched recursively.
        out: a folder that is not there, or empty.
        limits: what is drawn from.
        kernel_size: side of the blur kernel at 512, pixels.
        seed: with the key, the only source of randomness.
        size: side of the faces, pixels.

    Raises:
        TestSetError: no such folder, `out` holds something or lies in it, or no face can be used.
        FolderError: no pictures in it.
    """
    listing = _list(folder, out)
    left_out, altered, entries = dict[str, str](), dict[str, str](), dict[str, Any]()
    bar = progress_bar(len(listing.faces), "degrade", "face")
    for face in listing.faces:
        bar.update(1)
        try:
            photo, note = _read(folder, face)
            clean = resize_square(photo, size)
            if (clean == clean[0, 0]).all():
                raise PictureError("one flat colour, no face")
        except (PictureError, OSError) as error:
            left_out[face.source] = str(error)
            continue
        height, width = photo.shape[:2]
        cropped = f"central square of {width} x {height} pixels" if height != width else ""
        if notes := [text for text in (note, cropped) if text]:
            altered[face.source] = "; ".join(notes)
        rng = generator(seed, "degradation", face.key, 0)
        drawn = draw(limits, rng)
        poor = apply(clean, drawn, rng, kernel_size=kernel_size)
        entries[face.key] = {
            "source": face.source,
            "source_size": [width, height],
            "degradation": asdict(drawn),
            "hq_sha256": _write(out / "hq" / f"{face.key}.png", clean),
            "lq_sha256": _write(out / "lq" / f"{face.key}.png", poor),
        }
    bar.close()
    made = TestSet(len(listing.faces), len(entries), left_out, {}, altered, listing.ignored)
    facts = {"kind": "synthetic", "seed": seed, "range": asdict(limits), "kernel_size": kernel_size}
    return _finish(out, facts | {"size": size}, entries, made)


def align_photographs(
    photographs: Path, out: Path, detector: FaceDetector, *, size: int = 512, confidence: float = CONFIDENCE
) -> TestSet:
    """The faces of raw photographs (LFW-, WebPhoto-, WIDER-Test), aligned to the FFHQ template.

    Writes out/{key}_{n:02d}.png, n = 0 for the largest face of a photograph, and out/testset.json with the
    landmarks, the score and the matrix of each. Photographs are turned upright by their EXIF orientation;
    what `decode_exactly` refuses is left out.

    Args:
        photographs: a folder, searched recursively; where it holds `whole_imgs`, that one.
        out: a folder that is not there, or empty.
        detector: finds the faces.
        size: side of the faces, pixels.
        confidence: least score of a face, 0 to 1.

    Raises:
        TestSetError: no such folder, `out` holds something or lies in it, no photograph shows a face, or the
            faces are aligned already.
        FolderError: no pictures in it.
    """
    if (photographs / WHOLE).is_dir():
        photographs = photographs / WHOLE
    elif (photographs / CROPPED).is_dir():
        raise TestSetError(
            f"{photographs / CROPPED}: these faces are aligned already; give them to cfpp evaluate --inputs"
        )
    listing = _list(photographs, out)
    left_out, faces_left_out, altered = dict[str, str](), dict[str, str](), dict[str, str]()
    entries = dict[str, Any]()
    bar = progress_bar(len(listing.faces), "align", "photograph")
    for photograph in listing.faces:
        bar.update(1)
        try:
            picture, note = _read(photographs, photograph)
        except (PictureError, OSError) as error:
            left_out[photograph.source] = str(error)
            continue
        found = detector.detect(picture, confidence)
        cut = dict[int, tuple[Picture, dict[str, Any]]]()
        why = f"no face found with a confidence of {confidence:g} or more"
        for number in range(len(found)):
            try:
                cut[number] = _cut(picture, found, number, size)
            except AlignError as error:
                faces_left_out[f"{photograph.source}, face {number}"] = str(error)
                why = f"no face that can be used; face {number}: {error}"
        if not cut:
            left_out[photograph.source] = why
        elif note:
            altered[photograph.source] = note
        for number, (face, facts) in cut.items():
            key = f"{photograph.key}_{number:02d}"
            sha256 = _write(out / f"{key}.png", face)
            entries[key] = {"source": photograph.source, "sha256": sha256} | facts
    bar.close()
    made = TestSet(len(listing.faces), len(entries), left_out, faces_left_out, altered, listing.ignored)
    facts = {"kind": "aligned", "detector": detector.name, "confidence": confidence, "size": size}
    return _finish(out, facts, entries, made)


def _cut(picture: Picture, found: Faces, number: int, size: int) -> tuple[Picture, dict[str, Any]]:
    """One face of a photograph, and what is known of it.

    Raises:
        AlignError: it cannot be used.
    """
    box, points = found.boxes[number], found.points[number]
    if (box[2:] - box[:2]).min() < LEAST_SIDE:
        raise AlignError(f"under {LEAST_SIDE} pixels wide or high")
    face, matrix = align(picture, points, size)
    facts = {"points": points.round(2), "box": box.round(2), "matrix": matrix.round(8)}
    return face, {name: value.tolist() for name, value in facts.items()} | {
        "score": round(float(found.scores[number]), 4)
    }


def _read(folder: Path, face: FaceRef) -> tuple[Picture, str]:
    return decode_exactly(read_bytes(place_of_face(folder, face.source)))


def _list(folder: Path, out: Path) -> Listing:
    """The pictures of a folder, and room for what is made of them."""
    if not folder.is_dir():
        raise TestSetError(f"{folder}: no such folder")
    if out.resolve().is_relative_to(folder.resolve()):
        raise TestSetError(
            f"{out}: lies in {folder}, which is searched for pictures; name a folder elsewhere"
        )
    listing = list_faces(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TestSetError(f"{out}: is there already; name a new folder, or remove this one first")
    out.mkdir(parents=True, exist_ok=True)
    return listing


def _write(path: Path, picture: Picture) -> str:
    """Writes a PNG and gives its sha256."""
    data = encode_png(picture)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _finish(out: Path, facts: dict[str, Any], entries: dict[str, Any], made: TestSet) -> TestSet:
    """Writes testset.json; says what was left out."""
    for source, reason in (made.left_out | made.faces_left_out).items():
        log.warning("left out: %s: %s", source, reason)
    counts = {
        "files": made.files,
        "faces": made.faces,
        "left_out": len(made.left_out),
        "faces_left_out": len(made.faces_left_out),
    }
    named = {
        "left_out": made.left_out,
        "faces_left_out": made.faces_left_out,
        "altered": made.altered,
        "ignored": made.ignored,
    }
    text = json.dumps(facts | {"counts": counts, "faces": entries} | named, indent=1, sort_keys=True)
    with replacing(out / FACTS) as path:
        path.write_text(text + "\n", encoding="utf-8")
    if not made.faces:
        first = next(iter(made.left_out.items()))
        raise TestSetError(
            f"{out}: no face of {made.files} files; {first[0]}: {first[1]}; {out / FACTS} lists all"
        )
    return made

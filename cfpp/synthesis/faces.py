"""The shard stage: photos of a folder, or procedural faces, as square clean faces in shards."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cfpp.config import DataParams, Params
from cfpp.data.fingerprint import fingerprint
from cfpp.data.folder import Listing, list_faces, list_held_out, load_face, place_of_face
from cfpp.data.pictures import PictureError, encode_png
from cfpp.data.procedural.render import render
from cfpp.data.shards import DataError
from cfpp.data.split import FaceRef, plan_shards
from cfpp.progress import progress_bar
from cfpp.storage import StorageError, content_digest, place_of
from cfpp.synthesis.shard_work import Made, Refused, ShardTask, reason_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaceTask(ShardTask):
    """A shard of faces to read or render."""

    faces: tuple[FaceRef, ...]


@dataclass(frozen=True)
class FaceSpec:
    """Recipe of a `FaceWorker`. `folder` is "" for procedural faces; `test_folder` where it is the same."""

    folder: str
    test_folder: str
    size: int
    seed: int
    min_side: int
    max_pixels: int

    def build(self) -> "FaceWorker":
        """Nothing to load."""
        return FaceWorker(self)


class FaceWorker:
    """Makes `hq.png` and `meta.json` of each face."""

    def __init__(self, spec: FaceSpec) -> None:
        self.spec = spec

    def keys(self, task: FaceTask) -> Sequence[str]:
        """The keys of the plan."""
        return [face.key for face in task.faces]

    def process(self, task: FaceTask) -> Iterator[Made | Refused]:
        """Each face made, or refused with its reason."""
        for face in task.faces:
            try:
                yield Made(face.key, self._members(face, task.split))
            except PictureError as error:
                yield Refused(face.key, face.source, str(error))
            except StorageError:  # no fault of the face's: whatever is wrong is wrong for all of them
                raise
            except OSError as error:
                yield Refused(face.key, face.source, f"cannot be read: {error.strerror}")
            except Exception as error:  # one face must not cost the others theirs
                yield Refused(face.key, face.source, reason_of(error))

    def _members(self, face: FaceRef, split: str) -> dict[str, bytes]:
        spec = self.spec
        meta: dict[str, Any] = {"identity": face.identity, "source": face.source}
        if spec.folder:
            picture = load_face(
                place_of((spec.test_folder if split == "test" else "") or spec.folder),
                face.source,
                size=spec.size,
                min_side=spec.min_side,
                max_pixels=spec.max_pixels,
            )
        else:
            _, identity, shot = face.source.split("/")
            rendered = render(spec.seed, int(identity), int(shot), spec.size)
            picture = rendered.picture
            meta["landmarks5"] = [[round(float(v), 3) for v in point] for point in rendered.landmarks5]
            meta["landmarks68"] = [[round(float(v), 3) for v in point] for point in rendered.landmarks68]
        return {"hq.png": encode_png(picture), "meta.json": json.dumps(meta, sort_keys=True).encode()}


def list_source(params: DataParams) -> Listing:
    """Every face that the source offers.

    Raises:
        FolderError: see `list_faces`.
    """
    if params.source == "folder":
        listing = list_faces(place_of(params.folder), params.identity_pattern)
        if not params.test_folder:
            return listing
        tested = list_held_out(place_of(params.test_folder), params.identity_pattern)
        return Listing(listing.faces, listing.ignored + tested.ignored, tested.faces)
    faces = (
        FaceRef(f"p{identity:05d}s{shot:02d}", f"p{identity:05d}", f"procedural/{identity}/{shot}")
        for identity in range(params.identities)
        for shot in range(params.shots)
    )
    return Listing(tuple(faces), ())


def plan_faces(params: Params, listing: Listing) -> list[FaceTask]:
    """The shards of the shard stage. Files are read once, for their sha256.

    Raises:
        DataError: see `plan_shards`; or a file of data.test_folder is, byte for byte, one of data.folder.
    """
    plan = plan_shards(
        listing.faces,
        val_fraction=params.data.val_fraction,
        test_fraction=params.data.test_fraction,
        shard_size=params.data.shard_size,
        held_out=listing.held_out,
    )
    content = _contents(params.data, listing)
    tasks = []
    for (split, shard), faces in plan.items():
        lines = [json.dumps([face.key, face.identity, face.source, content[face.key]]) for face in faces]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        tasks.append(FaceTask(split, shard, digest, faces))
    return tasks


def face_spec(params: Params) -> FaceSpec:
    """The worker's recipe for these params."""
    return FaceSpec(
        folder=str(place_of(params.data.folder)) if params.data.source == "folder" else "",
        test_folder=str(place_of(params.data.test_folder)) if params.data.test_folder else "",
        size=params.run.size,
        seed=params.run.seed,
        min_side=params.data.min_side,
        max_pixels=params.data.max_pixels,
    )


def face_config_hash(params: Params) -> str:
    """Identity of what decides a face's bytes, beside its input."""
    if params.data.source == "folder":
        parts = {
            "size": params.run.size,
            "min_side": params.data.min_side,
            "max_pixels": params.data.max_pixels,
        }
        return fingerprint("folder", parts, code=[__name__])
    return fingerprint("procedural", params.run, code=[__name__])


def _contents(params: DataParams, listing: Listing) -> dict[str, str]:
    """sha256 of each face's file by key; for a procedural face its source says everything."""
    if params.source != "folder":
        return {face.key: "" for face in listing.faces}
    folder, tests = place_of(params.folder), place_of(params.test_folder or params.folder)
    places = {face.key: place_of_face(folder, face.source) for face in listing.faces}
    places |= {face.key: place_of_face(tests, face.source) for face in listing.held_out}
    with ThreadPoolExecutor(max_workers=8) as threads:
        found = {}
        with closing(progress_bar(len(places), "hash", "file")) as bar:
            for key, content in zip(places, threads.map(content_digest, places.values()), strict=True):
                found[key] = content
                bar.update(1)
    learnt = {found[face.key]: face.source for face in listing.faces}
    for face in listing.held_out:
        if found[face.key] in learnt:
            raise DataError(
                f"{face.source} of data.test_folder is {learnt[found[face.key]]} of data.folder; remove one"
            )
    return found

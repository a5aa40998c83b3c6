"""A folder of aligned faces as input: which files are faces, under which key, of which person.

Every file with an image suffix is a face and is either used or quarantined with a reason; every other
file is counted as ignored. A key is made from the file's own relative path, so that a new file renames
an old one only where both would have the same key.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from cfpp.data.pictures import Picture, PictureError, decode_photo, resize_square
from cfpp.data.shards import DataError
from cfpp.data.split import FaceRef
from cfpp.storage import Place, names_under, read_bytes

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
_KEY_LENGTH = 60


class FolderError(DataError):
    """The source folder gives no faces, or cannot be read as asked; the message says why."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        faces: one per image file, by relative path; `source` is that path, with slashes, and with bytes
            that are not UTF-8 as `\\xff`.
        ignored: relative paths of everything else: other suffixes and linked folders.
        held_out: the faces of a second folder that are the test split.
    """

    faces: tuple[FaceRef, ...]
    ignored: tuple[str, ...]
    held_out: tuple[FaceRef, ...] = ()


def list_faces(folder: Place, identity_pattern: str = "") -> Listing:
    """List the faces of a folder, searched recursively, in the order of their relative paths.

    Args:
        folder: the source folder, or the prefix of a bucket.
        identity_pattern: regex searched in each file's stem; group 1 is the identity. Without it,
            and for stems it does not match, every file is its own identity.

    Raises:
        FolderError: no such folder, no image files, a sub-folder that cannot be listed, or a pattern
            that is not a regex with one group or matches nothing.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        raise FolderError(f"{folder}: no such folder (data.folder)")
    pictures, ignored = _walk(folder) if isinstance(folder, Path) else _sorted_out(names_under(folder))
    if not pictures:
        found = f"only {len(ignored)} other files, such as {ignored[0]}" if ignored else "it is empty"
        raise FolderError(f"{folder}: no image files ({', '.join(sorted(SUFFIXES))}): {found}")
    keys = _keys(pictures)
    identities = _identities(pictures, keys, identity_pattern)
    faces = (FaceRef(keys[path], identities[path], path) for path in pictures)
    return Listing(tuple(faces), tuple(ignored))


def list_held_out(folder: Place, identity_pattern: str = "") -> Listing:
    """The faces of data.test_folder: as `list_faces`, with keys that begin with `test-`.

    Collections number their files alike; two files of one name in two folders are not the same face.
    """
    listing = list_faces(folder, identity_pattern)
    faces = []
    for face in listing.faces:
        key = f"test-{face.key}"
        faces.append(FaceRef(key, key if face.identity == face.key else face.identity, face.source))
    return Listing(tuple(faces), listing.ignored)


def place_of_face(folder: Place, source: str) -> Place:
    """The file or object that a listed face's `source` stands for."""
    return folder / re.sub(r"\\x([89a-f][0-9a-f])", lambda m: os.fsdecode(bytes([int(m[1], 16)])), source)


def load_face(folder: Place, source: str, *, size: int, min_side: int, max_pixels: int) -> Picture:
    """Read a listed face: upright 8-bit RGB, its central square, resized to `size`.

    Raises:
        PictureError: it cannot be used; the message says why.
        OSError: it cannot be read.
    """
    data = read_bytes(place_of_face(folder, source))
    face = resize_square(decode_photo(data, min_side=min_side, max_pixels=max_pixels), size)
    if np.ptp(face.reshape(-1, 3), axis=0).max() == 0:
        raise PictureError("one flat colour, no face")
    return face


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    pictures: list[str] = []
    ignored: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_stop):
        where = Path(parent)
        for name in [*files, *(name for name in folders if (where / name).is_symlink())]:
            path = _printable((where / name).relative_to(folder).as_posix())
            is_face = PurePosixPath(name).suffix.lower() in SUFFIXES and name in files
            (pictures if is_face else ignored).append(path)
    return sorted(pictures), sorted(ignored)


def _sorted_out(names: list[str]) -> tuple[list[str], list[str]]:
    """Pictures and others, by their suffix."""
    pictures = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    return pictures, sorted({*names} - {*pictures})


def _stop(error: OSError) -> None:
    raise FolderError(f"{error.filename}: cannot be listed: {error.strerror}; its faces would be missing")


def _printable(path: str) -> str:
    """The path with bytes that are not UTF-8 written as `\\xff`, as manifests and JSON can hold it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _keys(paths: list[str]) -> dict[str, str]:
    """A unique key per path: the stem, plus a hash of the path where the stem alone will not do."""
    stems = {path: PurePosixPath(path).stem for path in paths}
    plain = {path: _plain(stem) for path, stem in stems.items()}
    # Without regard to case: a shard may be unpacked where a.png and A.png are one file.
    uses = Counter(name.lower() for name in plain.values())
    keys = {}
    for path, name in plain.items():
        unique = name == stems[path] and uses[name.lower()] == 1
        keys[path] = name if unique else f"{name}-{hashlib.sha256(path.encode()).hexdigest()[:10]}"
    clashes = [key for key, count in Counter(key.lower() for key in keys.values()).items() if count > 1]
    if clashes:
        raise FolderError(f"files share the key {clashes[0]}; rename one of them")
    return keys


def _plain(stem: str) -> str:
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_stem)[:_KEY_LENGTH].strip("-") or "face"


def _identities(paths: list[str], keys: dict[str, str], pattern: str) -> dict[str, str]:
    people = people_in({path: PurePosixPath(path).stem for path in paths}, pattern, "data.identity_pattern")
    return {path: people[path] or keys[path] for path in paths}


def people_in(stems: Mapping[str, str], pattern: str, setting: str) -> dict[str, str | None]:
    """Who each file shows, by group 1 of a regex searched in its stem; None where that finds nobody.

    Args:
        stems: of the files, by their names.
        pattern: "" finds nobody.
        setting: where the pattern is from, for the error.

    Raises:
        FolderError: no regular expression, one without a group, or one that matches nothing.
    """
    if not pattern:
        return dict.fromkeys(stems)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise FolderError(f"{setting} {pattern!r}: not a regular expression: {error}") from None
    if regex.groups < 1:
        raise FolderError(f"{setting} {pattern!r}: has no group; group 1 is the identity")
    found = {name: regex.search(stem) for name, stem in stems.items()}
    if not any(found.values()):
        raise FolderError(f"{setting} {pattern!r}: matches no file, such as {next(iter(stems))}")
    return {name: match.group(1) if match else None for name, match in found.items()}

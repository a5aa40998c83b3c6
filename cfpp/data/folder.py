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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cfpp.data.pictures import Picture, decode_photo, resize_square
from cfpp.data.shards import DataError
from cfpp.data.split import FaceRef

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
_KEY_LENGTH = 60


class FolderError(DataError):
    """The source folder gives no faces, or cannot be read as asked; the message says why."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        faces: one per image file, by relative path; `source` is that path, with slashes.
        ignored: relative paths of everything else: other suffixes and linked folders.
    """

    faces: tuple[FaceRef, ...]
    ignored: tuple[str, ...]


def list_faces(folder: Path, identity_pattern: str = "") -> Listing:
    """List the faces of a folder, searched recursively, in the order of their relative paths.

    Args:
        folder: the source folder.
        identity_pattern: regex searched in each file's stem; group 1 is the identity. Without it,
            and for stems it does not match, every file is its own identity.

    Raises:
        FolderError: no such folder, no image files, a name that is not valid UTF-8, or a pattern
            that is not a regex with one group or matches nothing.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder (data.folder)")
    pictures, ignored = _walk(folder)
    if not pictures:
        found = f"only {len(ignored)} other files, such as {ignored[0]}" if ignored else "it is empty"
        raise FolderError(f"{folder}: no image files ({', '.join(sorted(SUFFIXES))}): {found}")
    keys = _keys(pictures)
    identities = _identities(pictures, keys, identity_pattern)
    faces = (FaceRef(keys[path], identities[path], path) for path in pictures)
    return Listing(tuple(faces), tuple(ignored))


def load_face(folder: Path, source: str, *, size: int, min_side: int, max_pixels: int) -> Picture:
    """Read a listed face: upright 8-bit RGB, its central square, resized to `size`.

    Raises:
        PictureError: it cannot be used; the message says why.
        OSError: it cannot be read.
    """
    photo = decode_photo((folder / source).read_bytes(), min_side=min_side, max_pixels=max_pixels)
    return resize_square(photo, size)


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    pictures: list[str] = []
    ignored: list[str] = []
    for parent, folders, files in os.walk(folder):
        where = Path(parent)
        for name in [*files, *(name for name in folders if (where / name).is_symlink())]:
            path = (where / name).relative_to(folder).as_posix()
            is_face = PurePosixPath(name).suffix.lower() in SUFFIXES and name in files
            (pictures if is_face else ignored).append(path)
    for path in (*pictures, *ignored):
        if not _is_utf8(path):
            raise FolderError(f"{folder}: file name {path!r} is not valid UTF-8; rename it")
    return sorted(pictures), sorted(ignored)


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
    if not pattern:
        return keys
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise FolderError(f"data.identity_pattern {pattern!r}: not a regular expression: {error}") from None
    if regex.groups < 1:
        raise FolderError(f"data.identity_pattern {pattern!r}: has no group; group 1 is the identity")
    found = {path: regex.search(PurePosixPath(path).stem) for path in paths}
    if not any(found.values()):
        raise FolderError(f"data.identity_pattern {pattern!r}: matches no file, such as {paths[0]}")
    return {path: (match.group(1) if match else None) or keys[path] for path, match in found.items()}

"""Pictures by name, from a folder or from a model, and what all of them have in common.

Nothing is altered in silence: see `decode_exactly`, and `Reading.altered`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from cfpp.data.folder import SUFFIXES
from cfpp.data.pictures import Picture, PictureError, decode_exactly, encode_png, resize_square
from cfpp.errors import MendableError

_NAMED = 3  # how many a message names


class FoldersError(MendableError, ValueError):
    """Folders that cannot be compared; the message says what differs and what to do."""


@dataclass(frozen=True)
class Reading:
    """A picture as it was read.

    Attributes:
        picture: uint8 [H, W, 3] RGB.
        sha256: of the file's bytes; of a model's output, of its PNG.
        altered: what was done to it; "" = nothing.
    """

    picture: Picture
    sha256: str
    altered: str = ""

    def fitted(self, size: int, *, resize: bool) -> "Reading":
        """At `size` x `size` pixels.

        Raises:
            PictureError: it is not square, or of another size and not to be resized.
        """
        height, width = self.picture.shape[:2]
        if height != width:
            raise PictureError(f"{width} x {height} pixels: not square")
        if width == size:
            return self
        if not resize:
            raise PictureError(f"{width} x {height} pixels, expected {size} x {size}; --size resizes all")
        note = f"resized from {width} pixels"
        altered = f"{self.altered}; {note}" if self.altered else note
        return replace(self, picture=resize_square(self.picture, size), altered=altered)


class Source(Protocol):
    """Where a restorer's pictures, the truth or the inputs come from."""

    @property
    def name(self) -> str:
        """As tables have it."""
        ...

    @property
    def origin(self) -> str:
        """What it is: a folder, a model version."""
        ...

    @property
    def stems(self) -> Collection[str]:
        """Names of its pictures."""
        ...

    @property
    def ignored(self) -> Sequence[str]:
        """Names of what lies beside its pictures and is none."""
        ...

    def usual_side(self, stems: Sequence[str]) -> int | None:
        """Side, pixels, of most of these pictures; None where none can be read."""
        ...

    def read(self, stem: str) -> Reading:
        """One picture.

        Raises:
            PictureError: it cannot be used.
            OSError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class PictureFolder:
    """The pictures right in a folder, by their stem; not those of folders below it.

    Attributes:
        name: as tables have it.
        folder: where.
        files: stem to path.
        ignored: names of all else in the folder, hidden files apart.
    """

    name: str
    folder: Path
    files: Mapping[str, Path]
    ignored: tuple[str, ...]

    @classmethod
    def open(cls, name: str, folder: Path) -> "PictureFolder":
        """List a folder.

        Raises:
            FoldersError: no such folder, no pictures, or two of one stem.
        """
        if not folder.is_dir():
            raise FoldersError(f"{folder}: no such folder ({name})")
        files: dict[str, Path] = {}
        ignored = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                ignored.append(path.name)
            elif path.stem in files:
                raise FoldersError(
                    f"{folder}: {files[path.stem].name} and {path.name} have one stem; remove one of them"
                )
            else:
                files[path.stem] = path
        if not files:
            found = f"it holds {', '.join(ignored[:_NAMED])}" if ignored else "it is empty"
            raise FoldersError(f"{folder}: no pictures ({', '.join(sorted(SUFFIXES))}); {found} ({name})")
        return cls(name, folder, files, tuple(ignored))

    @property
    def origin(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def stems(self) -> Collection[str]:
        """See `Source`."""
        return self.files.keys()

    def usual_side(self, stems: Sequence[str]) -> int | None:
        """See `Source`; by the files' headers, of those that are square."""
        sides: Counter[int] = Counter()
        for stem in stems:
            try:
                with Image.open(self.files[stem]) as image:
                    sides.update([image.width] * (image.width == image.height))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                continue  # it is named when it is read
        return sides.most_common(1)[0][0] if sides else None

    def read(self, stem: str) -> Reading:
        """See `Source`."""
        data = self.files[stem].read_bytes()
        picture, altered = decode_exactly(data)
        return Reading(picture, hashlib.sha256(data).hexdigest(), altered)


@dataclass(frozen=True)
class RestoredInputs:
    """A model's restorations of a folder of aligned faces, made when they are asked for.

    Attributes:
        name: as tables have it.
        origin: the model: its folder or version, and its weights.
        inputs: what it restores.
        restore: uint8 [B, H, H, 3] to uint8 [B, S, S, 3].
    """

    name: str
    origin: str
    inputs: PictureFolder
    restore: Callable[[Picture], Picture]

    @property
    def stems(self) -> Collection[str]:
        """See `Source`."""
        return self.inputs.stems

    @property
    def ignored(self) -> Sequence[str]:
        """See `Source`."""
        return self.inputs.ignored

    def usual_side(self, stems: Sequence[str]) -> int | None:
        """See `Source`; a model gives one size."""
        for stem in stems:
            try:
                return int(self.read(stem).picture.shape[0])
            except (PictureError, OSError):
                continue
        return None

    def read(self, stem: str) -> Reading:
        """See `Source`."""
        try:
            poor = self.inputs.read(stem)
            height, width = poor.picture.shape[:2]
            if height != width:
                raise PictureError(f"{width} x {height} pixels: not square")
        except PictureError as error:
            raise PictureError(f"its input: {error}") from error
        [restored] = self.restore(poor.picture[None])
        notes = [f"input: {poor.altered}"] if poor.altered else []
        if width != (side := restored.shape[1]):
            notes.append(f"input resized from {width} to {side} pixels")
        return Reading(restored, hashlib.sha256(encode_png(restored)).hexdigest(), "; ".join(notes))


@dataclass(frozen=True)
class Match:
    """What sources have in common.

    Attributes:
        stems: ascending.
        surplus: source name to its stems that others lack; only those that have such.
    """

    stems: tuple[str, ...]
    surplus: dict[str, tuple[str, ...]]


def match(sources: Sequence[Source], *, common: bool) -> Match:
    """The stems that all sources have.

    Args:
        common: measure these where the sources differ, rather than refuse.

    Raises:
        FoldersError: the names differ and `common` is not given, or none is common.
    """
    shared = set(sources[0].stems).intersection(*(source.stems for source in sources[1:]))
    everything = set().union(*(source.stems for source in sources))
    faults = []
    for source in sources:
        if lacks := sorted(everything - set(source.stems)):
            more = " ..." if len(lacks) > _NAMED else ""
            faults.append(f"{source.name} lacks {len(lacks)}: {', '.join(lacks[:_NAMED])}{more}")
    if faults and (not common or not shared):
        told = f"of {len(everything)} names, {'; '.join(faults)}"
        if not shared:
            raise FoldersError(f"no name is common: {told}; pictures of one face need one stem everywhere")
        raise FoldersError(f"names differ: {told}; --common measures the {len(shared)} that all have")
    surplus = {source.name: tuple(sorted(set(source.stems) - shared)) for source in sources}
    return Match(tuple(sorted(shared)), {name: stems for name, stems in surplus.items() if stems})

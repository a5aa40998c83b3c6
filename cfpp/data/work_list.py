"""What is read and where its results go: files, folders and patterns on one side, one folder on the other."""

import glob
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfpp.data.folder import SUFFIXES
from cfpp.errors import MendableError

_OTHERS = frozenset({".gif", ".apng", ".heic", ".heif", ".avif", ".jxl", ".jp2"})
"""Endings of pictures that cannot be read: worth a reason, where other files are no pictures."""

_MAGIC = frozenset("*?[")


class WorkListError(MendableError, ValueError):
    """Inputs and output do not fit each other; the message says why."""


@dataclass(frozen=True)
class Work:
    """One file to read, and the one to make of it.

    Attributes:
        source: to read.
        name: relative to the output folder; for people, too.
        target: to write.
    """

    source: Path
    name: Path
    target: Path


@dataclass(frozen=True)
class WorkList:
    """Everything to do.

    Attributes:
        works: in the order of the inputs, and by name within a folder.
        missing: each input, or folder or picture within one, that cannot be had, and why.
        ignored: files inside of folders that are no pictures by their names.
    """

    works: tuple[Work, ...]
    missing: dict[str, str]
    ignored: tuple[Path, ...]

    @classmethod
    def plan(cls, inputs: Sequence[str], out: Path) -> "WorkList":
        """List the pictures of the inputs, folders recursively, and where each one's result goes.

        Links are followed. A file that two inputs name for one result is listed once.

        Args:
            inputs: files, folders, or patterns such as `photos/**/*.jpg`.
            out: folder; a file keeps its name there, and one from within a folder its relative path.

        Raises:
            WorkListError: the output is, or lies in, an input folder; two files would have one result;
                or a result would replace an input.
        """
        works: dict[tuple[Path, Path], Work] = {}
        missing: dict[str, str] = {}
        ignored: list[Path] = []

        def add(file: Path, name: Path) -> None:
            if fault := _fault(file):
                missing[str(file)] = fault
            else:
                works.setdefault((file.resolve(), name), Work(file, name, out / name))

        for text in inputs:
            path = Path(text)
            if path.is_dir():
                for inner in _files(path, out, missing):
                    if inner.suffix.lower() in SUFFIXES | _OTHERS and not inner.name.startswith("."):
                        add(inner, inner.relative_to(path))
                    else:
                        ignored.append(inner)
            elif os.path.lexists(path):
                add(path, Path(path.name))
            else:
                files, folders = _matches(text, out)
                for file in files:
                    add(file, Path(file.name))
                if not files:
                    missing[text] = (
                        f"finds only folders, such as {folders[0]}; name the folder instead"
                        if folders
                        else "no such file or folder"
                    )
        _check([*works.values()])
        return cls(tuple(works.values()), missing, tuple(ignored))


def _files(
    folder: Path, out: Path, missing: dict[str, str], above: frozenset[Path] = frozenset()
) -> Iterator[Path]:
    """Every file of a folder, links followed; a link to a folder that it lies in has nothing new."""

    def note(error: OSError) -> None:
        missing[str(error.filename)] = f"cannot be listed: {error.strerror}"

    if (here := folder.resolve()) in above:
        return
    _refuse_inside(out, folder)
    _, folders, files = next(os.walk(folder, onerror=note), ("", [], []))
    yield from (folder / name for name in sorted(files))
    for name in sorted(folders):
        yield from _files(folder / name, out, missing, above | {here})


def _fault(file: Path) -> str:
    """Why a file cannot be read; "" where that can be tried. Opening a pipe would wait for its other end."""
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if regular else "no regular file but a pipe, a socket or a device"


def _matches(pattern: str, out: Path) -> tuple[list[Path], list[Path]]:
    """The files and the folders that a pattern finds; folders are not entered but by the pattern itself."""
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute patterns)
    folders = sorted(path for path in map(Path, found) if path.is_dir())
    files = sorted({*map(Path, found)} - {*folders})
    steps = itertools.takewhile(lambda part: not _MAGIC.intersection(part), Path(pattern).parts[:-1])
    if any(file.resolve().is_relative_to(out.resolve()) for file in files):
        _refuse_inside(out, Path(*steps))
    return files, folders


def _refuse_inside(out: Path, folder: Path) -> None:
    if out.resolve().is_relative_to(folder.resolve()):
        raise WorkListError(
            f"{out}: lies in the input folder {folder}, whose next reading would find the results; "
            "choose another output folder"
        )


def _check(works: Sequence[Work]) -> None:
    sources = {work.source.resolve(): work.source for work in works}
    by_target: dict[Path, Work] = {}
    for work in works:
        first = by_target.setdefault(work.target, work)
        if first is not work:
            raise WorkListError(
                f"{first.source} and {work.source} would both become {work.target}; "
                "give their folders one at a time, or rename one"
            )
        if (target := work.target.resolve()) in sources:
            raise WorkListError(
                f"{work.target}: would replace the input {sources[target]}; choose another output folder"
            )

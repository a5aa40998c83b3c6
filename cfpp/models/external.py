"""Networks from elsewhere: found by name and sha256 in `weights.root`, never downloaded here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cfpp.config import ParamsError
from cfpp.errors import MendableError


@dataclass(frozen=True)
class ExternalFile:
    """A published file: its name, the first digits of its sha256, and what to call it in reports."""

    name: str
    sha256: str
    label: str


class ExternalFileError(MendableError, ValueError):
    """A file has the name of a known network but other contents."""


def find_external(root: str | Path, known: Sequence[ExternalFile]) -> tuple[Path, ExternalFile] | None:
    """First of `known` that lies in the folder `root`; None when there is none, or `root` is "".

    Raises:
        ParamsError: `root` is set but is no folder.
        ExternalFileError: the file is there but its sha256 differs (cut short, or another network).
    """
    if not str(root):
        return None
    folder = Path(root)
    if not folder.is_dir():
        raise ParamsError(f'weights.root: {folder} is not a folder; set it to "" to go without')
    for file in known:
        path = folder / file.name
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if not digest.startswith(file.sha256):
                raise ExternalFileError(
                    f"{path}: sha256 is {digest}, expected {file.sha256}...; fetch it again or remove it"
                )
            return path, file
    return None


def why_missing(root: str | Path, known: Sequence[ExternalFile]) -> str:
    """The reason that reports give when `find_external` found nothing."""
    names = " or ".join(file.name for file in known)
    where = f"not in {Path(root).name or root}" if str(root) else 'weights.root is ""'
    return f"needs {names} ({where})"

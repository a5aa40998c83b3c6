"""Networks from elsewhere: found by name and sha256 in `weights.root`; finding never downloads anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cfpp.config import ParamsError
from cfpp.errors import MendableError
from cfpp.files import file_digest


@dataclass(frozen=True)
class ExternalFile:
    """A file that others made and this project only reads.

    Attributes:
        name: of the file in `weights.root`.
        sha256: in hex.
        label: what reports call the network.
        serves: what it is for.
        size: bytes; 0 = not known.
        url: where it is published: an address, or `torchvision:` and a name of its weights, whose address
            torchvision knows; "" = nowhere that is known, it is placed by hand.
        licence: as its publisher states it; "" = not stated.
    """

    name: str
    sha256: str
    label: str
    serves: str = ""
    size: int = 0
    url: str = ""
    licence: str = ""


class ExternalFileError(MendableError, ValueError):
    """A file from elsewhere is not what its name or its key says."""


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
            return path, identify(path, known)
    return None


def identify(path: Path, known: Iterable[ExternalFile]) -> ExternalFile:
    """Which of `known` a file is, by its name and its sha256: several may share a name.

    Raises:
        ExternalFileError: none of them.
    """
    digest = file_digest(path)
    namesakes = [file for file in known if file.name == path.name]
    for file in namesakes:
        if digest == file.sha256:
            return file
    expected = " or ".join(file.sha256 for file in namesakes)
    raise ExternalFileError(f"{path}: sha256 is {digest}, expected {expected}; fetch it again or remove it")


def why_missing(root: str | Path, known: Sequence[ExternalFile]) -> str:
    """The reason that reports give when `find_external` found nothing, with the command that mends it."""
    names = " or ".join(dict.fromkeys(file.name for file in known))
    where = f"not in {Path(root).name or root}" if str(root) else 'weights.root is ""'
    public = [file.name for file in known if file.url]
    if not public:
        return f"needs {names} ({where}); place it by hand, see docs/weights.md"
    first = "" if str(root) else "set weights.root, then "
    return f"needs {names} ({where}); {first}run `cfpp weights fetch {public[0]}`"


def load_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth file; one that is kept beside other things under `state_dict` as well.

    Raises:
        ExternalFileError: holds none, or more than plain tensors, which is never executed.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        raise ExternalFileError(f"{path}: not a state dict of plain tensors: {error}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ExternalFileError(f"{path}: not a state dict of plain tensors")
    return state

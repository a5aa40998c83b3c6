"""`cfpp weights`: the networks from elsewhere, what is there and what is not."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpp.config import load_params
from cfpp.errors import MendableError

if TYPE_CHECKING:
    from cfpp.models.external import ExternalFile


def add_parser(commands: Any) -> None:
    """Add `weights` to the sub-parsers of argparse."""
    weights = commands.add_parser("weights", help="list and fetch the networks from elsewhere")
    actions = weights.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="what each file is for, and whether it is there and good")
    listing.set_defaults(run=_list)
    fetching = actions.add_parser("fetch", help="download files and check their sha256")
    wanted = fetching.add_mutually_exclusive_group(required=True)
    wanted.add_argument("names", nargs="*", default=[], metavar="NAME", help="files, as `list` names them")
    wanted.add_argument("--all", action="store_true", help="every file that has a public address")
    fetching.set_defaults(run=_fetch)
    for action in (listing, fetching):
        action.add_argument("--root", type=Path, help="folder to use in place of weights.root")


def _list(options: argparse.Namespace) -> None:
    from cfpp.models.catalogue import CATALOGUE

    root = options.root or load_params().weights.root
    print(f"weights.root: {root}" if root else 'weights.root is "": no file is used, nothing can be fetched')
    names = list(dict.fromkeys(file.name for file in CATALOGUE))
    width = max(map(len, names))
    for name in names:
        known = [file for file in CATALOGUE if file.name == name]
        size = f"{known[0].size / 1e6:.2f} MB"
        print(f"{name:<{width}}  {size:>9}  {_state(root, known)}")
        print(f"{'':<{width}}  {known[0].label}: {known[0].serves}")
        print(f"{'':<{width}}  sha256 {known[0].sha256}")


def _state(root: Path | str, known: "list[ExternalFile]") -> str:
    """Present and good, present but another file, or missing, with what to do."""
    from cfpp.models.external import ExternalFileError, identify

    name = known[0].name
    remedy = f"run `cfpp weights fetch {name}`" if known[0].url else "place it by hand, see docs/weights.md"
    path = Path(root) / name
    if not str(root) or not path.is_file():
        return f"missing; {remedy}"
    try:
        found = identify(path, known)
    except ExternalFileError:
        return f"PRESENT, BUT WRONG sha256; {remedy}"
    return "present and good" if found is known[0] else f"present and good: {found.label}"


def _fetch(options: argparse.Namespace) -> None:
    from cfpp.models.catalogue import CATALOGUE
    from cfpp.models.external import ExternalFileError, identify
    from cfpp.models.fetch import FetchError, fetch

    root = options.root or load_params().weights.root
    if not root:
        raise MendableError('weights.root is "": name a folder there, in params.yaml, or give --root')
    first = {file.name: file for file in reversed(CATALOGUE)}  # of namesakes, the published one comes first
    if unknown := [name for name in options.names if name not in first]:
        raise MendableError(f"{', '.join(unknown)}: not known; `cfpp weights list` shows what is")
    wanted = options.names or [file.name for file in CATALOGUE if file.url]
    failed = 0
    for name in dict.fromkeys(wanted):
        path = Path(root) / name
        try:
            if path.is_file():
                try:
                    print(f"{name}: already there, {identify(path, CATALOGUE).label}")
                    continue
                except ExternalFileError:
                    print(f"{name}: there with a wrong sha256, fetching it anew")
            fetch(first[name], Path(root))
            print(f"{name}: fetched, sha256 {first[name].sha256}")
        except FetchError as error:
            print(error)
            failed += 1
    if failed:
        raise MendableError(f"{failed} of {len(wanted)} files not fetched, see above")

"""The project's own copies of what a stage reads and writes, where the storage lies elsewhere.

dvc.yaml says what belongs to a stage. Models, reports and manifests are small: they are copied, so that DVC
and whoever works in the project see them. Tars stay where they are; the manifests pin them by their sha256.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from cfpp.errors import MendableError
from cfpp.files import file_digest
from cfpp.storage import Place, copy, names_under, reading, remove

MADE = ("data", "models", "reports")  # what stages write; everything else is code or settings
MANIFESTS = ".parquet"
FACES = "data/shards"
THROUGHPUT = "reports/throughput.json"  # of all stages; DVC does not track it


class MirrorError(MendableError, RuntimeError):
    """Project and storage do not hold the same data."""


@dataclass(frozen=True)
class StageFiles:
    """What dvc.yaml says of a stage: relative paths of files and folders that stages write."""

    deps: tuple[str, ...]
    outs: tuple[str, ...]


def stage_files(stage: str, root: Path) -> StageFiles:
    """Dependencies and outputs of a stage that other stages write or read."""
    graph = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))
    section = graph["stages"].get(stage, {})
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in section.get(kind, [])]
    outs = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    deps = [entry for entry in section.get("deps", []) if Path(entry).parts[0] in MADE]
    if FACES not in [*deps, *outs]:
        deps.append(FACES)  # every run is tagged with its manifest
    return StageFiles(tuple(deps), tuple(outs))


def pull(storage: Place, root: Path, paths: Iterable[str]) -> None:
    """Copy files and folders from the storage into the project; of data, the tables alone.

    What else the project holds in these folders is removed: it is an older run's, or tars of a run that had
    its storage here. A path at which the storage has nothing is left alone.
    """
    for path in paths:
        names = _names(storage, path)
        stale = set(names_under(root / path)) if names and not Path(path).suffix else set()
        for name in stale - {Path(name).relative_to(path).as_posix() for name in names}:
            (root / path / name).unlink()
        for name in names:
            copy(storage / name, root / name)


def pull_all(storage: Place, root: Path, paths: Iterable[str]) -> None:
    """`pull` what must be there.

    Raises:
        MirrorError: the storage has nothing at one of the paths.
    """
    for path in paths:
        if not _names(storage, path):
            raise MirrorError(
                f"{storage / path}: nothing is there; do all machines see the same storage.root?"
            )
        pull(storage, root, [path])


def push(storage: Place, root: Path, paths: Iterable[str]) -> None:
    """Copy models and reports from the project to the storage; data is written there in the first place."""
    for path in paths:
        if Path(path).parts[0] != "data":
            names = _names(root, path)
            for name in names:
                copy(root / name, storage / name)
            for name in set(_names(storage, path)) - set(names):
                remove(storage / name)


def check_same(storage: Place, root: Path, paths: Iterable[str]) -> None:
    """Whether what DVC knows here is what lies in the storage, for inputs that the project has.

    Raises:
        MirrorError: another run has written to the storage since.
    """
    for path in paths:
        for name in _names(root, path):
            if not _same(root / name, storage / name):
                raise MirrorError(
                    f"{name} is not what lies in {storage}: another run has written there, or only here. "
                    f"Run its stage again (dvc repro -f -s STAGE), or take another storage.root"
                )


def _same(own: Path, other: Place) -> bool:
    try:
        with reading(other) as path:
            return path.is_file() and file_digest(own) == file_digest(path)
    except FileNotFoundError:
        return False


def _names(place: Place, path: str) -> list[str]:
    """Files at or under a path, relative to the place; of data, the tables alone."""
    if Path(path).suffix:  # one file: outputs that are folders have none
        folder = str(Path(path).parent)
        return [path] if Path(path).name in names_under(place / folder) else []
    names = [f"{path}/{name}" for name in names_under(place / path)]
    return [name for name in names if not path.startswith("data") or name.endswith(MANIFESTS)]

"""Whether anything still names a face: the proof that someone who withdraws consent is owed.

Headers, tables and file names are read, no pictures. Looked through are the stage folders and, because copies
of them lie about, the project's own tables, reports and MLflow artifacts, DVC's cache, this machine's copies
of shards, and the folders that pictures come from.
"""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from cfpp.audit.stages import STAGES, Stage, fault_of
from cfpp.config import Params
from cfpp.data.folder import SUFFIXES, list_faces, list_held_out, place_of_face
from cfpp.data.manifest import read_table
from cfpp.data.shards import KEY_PATTERN, DataError, scan_shard
from cfpp.progress import progress_bar
from cfpp.storage import Place, StorageError, cache_folder, names_under, place_of, reading

_THREADS = 8
_REPORTS = ("per_image.csv", "report.html")  # those that name faces
_PANEL = re.compile(r'class="name">([\w-]+), degradation')  # a face in report.html
_NAMES = ("key", "source")  # columns that name faces
_GONE = "take its source away and run dvc repro"


@dataclass(frozen=True)
class Corner:
    """Files to look through.

    Attributes:
        name: of the place, for people.
        files: in it.
        keys: those that one of the files names.
        cure: what to do about a file that names a key.
    """

    name: str
    files: tuple[Place, ...]
    keys: Callable[[Place], Iterable[str]]
    cure: str


@dataclass
class Search:
    """The outcome.

    Attributes:
        searched: per corner, how many files were looked through.
        findings: per key, a line for each file that still names it.
        alike: per key, the keys found that the same face may have, with an end that tells apart files of one
            name, or in other letters; they leave that key unproven.
        unread: a line for each file that could not be looked through, which leaves every key unproven.
    """

    searched: dict[str, int] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)
    alike: dict[str, set[str]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def search(params: Params, root: Path, keys: Sequence[str]) -> Search:
    """Look for `keys` in the storage and about the project in `root`.

    Raises:
        DataError: one of them is no key, or there is no data to look through.
        StorageError: the storage does not answer.
    """
    for key in keys:
        if not KEY_PATTERN.fullmatch(key):
            raise DataError(
                f"{key!r}: not a key; keys are letters, digits, _ and -, as in reports/per_image.csv"
            )
    storage, root = place_of(params.storage.root, root), root.resolve()
    corners = [_stage(storage, stage, params) for stage in STAGES]
    if not any(corner.files for corner in corners):
        raise DataError(f"{storage / 'data'}: no stage has written anything; is storage.root right?")
    outcome = Search(findings={key: [] for key in keys}, alike={key: set() for key in keys})
    for more in (_copies(storage, root), _cached(root), _pictures(params, root)):
        try:
            corners += list(more)
        except DataError as error:
            outcome.unread.append(str(error))
    jobs = [(corner, file) for corner in corners for file in corner.files]
    wanted = {key: re.compile(rf"{key}(-[0-9a-f]{{10}})?", re.IGNORECASE) for key in keys}
    look = partial(_look, wanted)
    with ThreadPoolExecutor(_THREADS) as threads, closing(progress_bar(len(jobs), "search", "file")) as bar:
        for (corner, file), (found, fault) in zip(jobs, threads.map(look, jobs), strict=True):
            for key, names in found.items():
                if key in names:
                    outcome.findings[key].append(f"{file}; {corner.cure}")
                outcome.alike[key] |= names - {key}
            if fault:
                outcome.unread.append(f"{file}: {fault}; mend it, or remove it")
            bar.update(1)
    outcome.searched = {corner.name: len(corner.files) for corner in corners}
    return outcome


def _look(wanted: dict[str, re.Pattern[str]], job: tuple[Corner, Place]) -> tuple[dict[str, set[str]], str]:
    """Per wanted key, it and those like it that a file names; and why it could not be read."""
    corner, file = job
    try:
        seen = {*corner.keys(file)}
    except StorageError:
        raise
    except (DataError, OSError, ValueError, csv.Error) as error:  # what damage does to tars, tables and text
        return {}, fault_of(error, file)
    return {key: {name for name in seen if like.fullmatch(name)} for key, like in wanted.items()}, ""


def _stage(storage: Place, stage: Stage, params: Params) -> Corner:
    """A stage folder: every tar and table, whether listed, left over or half-written."""
    folder, cure = stage.place(storage), stage.stale(params.prior) or _GONE
    files = tuple(
        folder / name
        for name in names_under(folder)
        if name.removesuffix(".tmp").endswith((".tar", ".parquet"))
    )
    return Corner(stage.name, files, _opened(_by_suffix), cure)


def _copies(storage: Place, root: Path) -> Iterator[Corner]:
    """Wherever a copy of a shard, of a table or of figures about single faces may lie."""
    if storage != root:
        tables = (stage.place(root) / name for stage in STAGES for name in names_under(stage.place(root)))
        yield Corner("the project's own data", tuple(tables), _opened(_by_suffix), _GONE)
    bases = (storage,) if storage == root else (storage, root)
    reports = (base / "reports" / name for base in bases for name in names_under(base / "reports"))
    named = tuple(place for place in reports if place.name in _REPORTS)
    yield Corner("reports", named, _opened(_by_suffix), "run dvc repro -f -s evaluate")
    artifacts = root / "mlartifacts"
    logged = (artifacts / name for name in names_under(artifacts) if name.endswith(_REPORTS))
    yield Corner("MLflow's artifacts", tuple(logged), _opened(_by_suffix), "delete its run, then mlflow gc")
    copies = cache_folder()
    shards = (copies / name for name in names_under(copies) if not name.endswith(".lock"))
    yield Corner("this machine's copies of shards", tuple(shards), _opened(_tar), "remove it")


def _cached(root: Path) -> Iterator[Corner]:
    """DVC's cache, which its settings may have put anywhere; none where DVC was never used.

    Raises:
        DataError: DVC does not say where it is.
    """
    if not ((root / ".dvc").exists() or (root / "dvc.lock").exists()):
        return
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=False
    )
    if asked.returncode or not asked.stdout.strip():
        why = " ".join(asked.stderr.split()) or "no answer"
        raise DataError(f"DVC's cache: dvc cache dir does not say where it is ({why}); mend its settings")
    cache = root / asked.stdout.strip() / "files" / "md5"
    files = tuple(cache / name for name in names_under(cache))
    yield Corner("DVC's cache", files, _opened(_by_content), "run dvc gc -w once it is out of data/")


def _pictures(params: Params, root: Path) -> Iterator[Corner]:
    """The folders that pictures come from, by the names of their files.

    Raises:
        FolderError: one of them cannot be listed.
    """
    if params.data.source == "folder":
        for setting, listed in (("folder", list_faces), ("test_folder", list_held_out)):
            if name := getattr(params.data, setting):
                folder = place_of(name, root)
                faces = listed(folder).faces if names_under(folder) else ()
                keys = {place_of_face(folder, face.source): (face.key,) for face in faces}
                yield Corner(f"data.{setting}", tuple(keys), keys.__getitem__, "remove it and run dvc repro")
    for setting in ("lq_folder", "id_folder", "gp_folder"):
        if name := getattr(params.prior, setting):
            pictures = tuple(root / name / file for file in names_under(root / name))
            yield Corner(f"prior.{setting}", pictures, lambda file: (_key_of(file.name),), "remove it")


def _opened(keys_in: Callable[[Path], Iterable[str]]) -> Callable[[Place], Iterable[str]]:
    """The keys of a file, wherever it lies, from what reads them on the local disk."""

    def keys(place: Place) -> Iterable[str]:
        with reading(place) as path:
            try:
                return set(keys_in(path))
            except DataError as error:
                raise DataError(fault_of(error, path)) from error

    return keys


def _by_suffix(path: Path) -> Iterable[str]:
    suffix = Path(path.name.removesuffix(".tmp")).suffix
    return {".tar": _tar, ".parquet": _table, ".csv": _figures, ".html": _report}.get(suffix, _nothing)(path)


def _by_content(path: Path) -> Iterable[str]:
    """Of a file whose name says nothing: shards, tables, and DVC's lists of what a folder held."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head[257:262] == b"ustar":
        return _tar(path)
    if head.startswith(b"PAR1"):
        return _table(path)
    return _listing(path) if path.suffix == ".dir" else ()


def _tar(path: Path) -> Iterable[str]:
    return {member.key for member in scan_shard(path)}


def _table(path: Path) -> Iterator[str]:
    """The faces of a quarantine table, and those whose refused pictures it names."""
    table = read_table(path)
    keys, sources = (table.column(name).to_pylist() if name in table.column_names else [] for name in _NAMES)
    for name in filter(None, [*keys, *sources]):
        if not isinstance(name, str):
            raise DataError(f"{' and '.join(_NAMES)} are not texts")
    yield from filter(None, keys)
    for source in map(PurePosixPath, filter(None, sources)):
        if source.suffix.lower() in SUFFIXES:
            yield source.stem


def _figures(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from (row.get("key") or "" for row in csv.DictReader(file))


def _report(path: Path) -> Iterable[str]:
    return _PANEL.findall(path.read_text(encoding="utf-8"))


def _listing(path: Path) -> Iterable[str]:
    try:
        names = [PurePosixPath(entry["relpath"]) for entry in json.loads(path.read_bytes())]
    except (TypeError, LookupError):
        raise DataError("not a list of files as DVC writes them") from None
    return {_key_of(name.name) for name in names if name.suffix.lower() in SUFFIXES}


def _nothing(path: Path) -> Iterable[str]:
    return ()


def _key_of(name: str) -> str:
    """The key in a file name such as KEY.0.png."""
    return name.partition(".")[0]

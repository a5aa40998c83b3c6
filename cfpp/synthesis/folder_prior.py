"""The synthesize stage with any other prior: I_F and I_G are read from two folders that it filled.

The pictures are called {key}.{variant}.png (or with another of `SUFFIXES`), as `cfpp prior inputs` calls the
degraded faces which that prior is to restore. Those stay in a third folder: they prove that the pictures
belong to the faces as this run degrades them, and not to those of other params.

Pictures of the controlled study (`cfpp controlled`) are no restorer's. A file beside their folders says so,
and each is marked `controlled` in its draw.json: what is measured on them is to be called that.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfpp.config import Params
from cfpp.data.fingerprint import fingerprint
from cfpp.data.manifest import QuarantineRow
from cfpp.data.pictures import Picture, PictureError, decode, decode_photo
from cfpp.data.shards import DataError, read_shard
from cfpp.storage import Place, content_digest
from cfpp.synthesis.degraded import Degraded, Degrader, degrader
from cfpp.synthesis.shard_work import Made, Refused, reason_of
from cfpp.synthesis.tars import TarTask, keys_of, plan_from

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SYMBOLS = {"lq": "I_LQ", "id": "I_F", "gp": "I_G"}
FAULTS = ("wrong-sized", "unreadable", "stale")
STUDY_FILE = "study.json"  # beside the folders of a finished study
FLOWS = "flow"  # the study's folder of true flows
ROUNDING = 0.5  # mean levels of 255 by which another kind of CPU may degrade a face differently
_NAMED = 3
_FAULT = re.compile(rf"({'|'.join(SYMBOLS.values())}) of \S+ is ({'|'.join(FAULTS)})")


@dataclass(frozen=True)
class FolderTask(TarTask):
    """A shard made from another one and from the pictures in the prior's folders.

    Attributes:
        input_sha256: identity of all of them.
        source_sha256: that of the input shard alone.
        files: per column (lq, id, gp) the path of each picture by its name, {key}.{variant}.
        controlled: the pictures are those of the controlled study.
    """

    source_sha256: str
    files: Mapping[str, Mapping[str, str]]
    controlled: bool


@dataclass(frozen=True)
class FolderPlan:
    """What the folders hold against what the shards ask for.

    Attributes:
        tasks: one per shard.
        facts: per column, counts of pictures `asked`, `found`, `missing` and `surplus`; found + missing =
            asked, and found + surplus = all pictures; files of other suffixes do not count.
        controlled: the pictures are those of the controlled study.
    """

    tasks: list[FolderTask]
    facts: dict[str, int]
    controlled: bool


@dataclass(frozen=True)
class FolderSpec:
    """Recipe of a `FolderWorker`.

    Attributes:
        degrader: makes the degraded faces, the same that the prior was given.
        size: side that every picture must have, pixels.
    """

    degrader: Degrader
    size: int

    def build(self) -> "FolderWorker":
        return FolderWorker(self)


class FolderWorker:
    """Makes the columns lq, id, gp and draw of each variant of each face."""

    def __init__(self, spec: FolderSpec) -> None:
        self.spec = spec

    def keys(self, task: FolderTask) -> Sequence[str]:
        """The keys of the input shard."""
        return keys_of(task.source)

    def process(self, task: FolderTask) -> Iterator[Made | Refused]:
        """Each face with all its variants, or refused whole with every picture at fault."""
        for key, members in read_shard(Path(task.source), task.source_sha256):
            try:
                made, faults = dict[str, bytes](), list[str]()
                for item in self.spec.degrader.degrade(key, decode(members["hq.png"]), task.split):
                    pictures: dict[str, Picture] = {}
                    for column, symbol in SYMBOLS.items():
                        try:
                            pictures[column] = self._read(task, column, item)
                        except PictureError as fault:
                            faults.append(f"{symbol} of {item.name} is {fault}")
                    if not faults:
                        made |= item.members(pictures["id"], pictures["gp"])
                        if task.controlled:
                            _mark(made, f"{item.variant}.draw.json")
                if faults:
                    raise PictureError("; ".join(faults))
                yield Made(key, made)
            except Exception as error:  # one face must not cost the others theirs
                yield Refused(key, task.place, reason_of(error))

    def _read(self, task: FolderTask, column: str, item: Degraded) -> Picture:
        """The picture of a column.

        Raises:
            PictureError: begins with missing, or with one of FAULTS.
        """
        path, size = task.files[column].get(item.name), self.spec.size
        if path is None:
            raise PictureError("missing")
        try:
            picture = decode_photo(Path(path).read_bytes())
        except (PictureError, OSError) as error:
            raise PictureError(f"unreadable ({error})") from error
        height, width = picture.shape[:2]
        if (height, width) != (size, size):
            raise PictureError(f"wrong-sized ({width} x {height} pixels, expected {size} x {size})")
        if column == "lq" and np.abs(picture.astype(int) - item.picture).mean() > ROUNDING:
            raise PictureError(
                "stale (this run degrades the face otherwise: write the inputs anew, restore them)"
            )
        return picture


def count_faults(refused: Iterable[QuarantineRow]) -> dict[str, int]:
    """How many pictures of each column were found, but cost their faces: wrong-sized, unreadable, stale."""
    found = Counter(match for row in refused for match in _FAULT.findall(row.reason))
    return {
        f"{column}_{fault.replace('-', '_')}": found[symbol, fault]
        for column, symbol in SYMBOLS.items()
        for fault in FAULTS
        if fault != "stale" or column == "lq"
    }


def folder_spec(params: Params) -> FolderSpec:
    """The worker's recipe for these params."""
    return FolderSpec(degrader(params), params.run.size)


def folder_config_hash(params: Params) -> str:
    """Identity of what decides the bytes, beside the input shard and the pictures."""
    return fingerprint("folder prior", folder_spec(params), code=[__name__])


def plan_folder(shards: Place, folders: Mapping[str, Path], degrader: Degrader) -> FolderPlan:
    """Match the pictures of ``folders`` (columns lq, id, gp) with the faces of the stage folder ``shards``.

    Surplus pictures, of no face or variant of the shards, are counted and the first named in the log; missing
    ones cost their face, with its reason, when its shard is made.

    Raises:
        DataError: a folder is not there, holds nothing for these faces, or two files for one picture; or it
            belongs to a study that was not finished.
    """
    controlled = any(is_controlled(folder.parent) for folder in folders.values())
    found = {column: _pictures(column, folder) for column, folder in folders.items()}
    asked: set[str] = set()
    tasks = []
    for task in plan_from(shards):
        variants = range(degrader.variants(task.split))
        with task.opened() as local:
            names = [f"{key}.{variant}" for key in keys_of(local.source) for variant in variants]
        asked |= set(names)
        files = {
            column: {name: str(pictures[name]) for name in names if name in pictures}
            for column, pictures in found.items()
        }
        digest = hashlib.sha256(task.input_sha256.encode())
        if controlled:
            digest.update(b"\ncontrolled")
        for column, own in sorted(files.items()):
            for name, path in sorted(own.items()):
                digest.update(f"\n{column} {name} {content_digest(Path(path))}".encode())
        tasks.append(
            FolderTask(
                task.split, task.shard, digest.hexdigest(), task.source, task.input_sha256, files, controlled
            )
        )
    facts: dict[str, int] = {}
    for column, pictures in found.items():
        surplus = sorted(set(pictures) - asked)
        used = len(pictures) - len(surplus)
        if not used:
            raise DataError(
                f"{folders[column]}: none of its {len(pictures)} pictures is called like a face; expected "
                f"{min(asked)}.png and so on (see cfpp prior inputs)"
            )
        if surplus:
            log.warning("%s: %d of no known face: %s ...", folders[column], len(surplus), surplus[:_NAMED])
        facts |= {
            f"{column}_asked": len(asked),
            f"{column}_found": used,
            f"{column}_missing": len(asked) - used,
            f"{column}_surplus": len(surplus),
        }
    return FolderPlan(tasks, facts, controlled)


def is_controlled(folder: Path) -> bool:
    """Whether a folder is that of a controlled study.

    Raises:
        DataError: it is one that was not finished, or its `STUDY_FILE` is damaged.
    """
    path = folder / STUDY_FILE
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["study"] == "controlled")
    except FileNotFoundError:
        if (folder / FLOWS).is_dir():
            raise DataError(
                f"{path}: not there, beside {FLOWS}/: a controlled study that was not finished; write it "
                "again with cfpp controlled"
            ) from None
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged, not a study's; write it again with cfpp controlled") from error


def _mark(members: dict[str, bytes], name: str) -> None:
    """Note in a draw.json that its pictures are controlled."""
    members[name] = json.dumps(json.loads(members[name]) | {"controlled": True}, sort_keys=True).encode()


def _pictures(column: str, folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no folder; prior.{column}_folder must hold {SYMBOLS[column]} of every face"
        )
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            if path.stem in pictures:
                raise DataError(f"{path} and {pictures[path.stem].name} are the same picture; remove one")
            pictures[path.stem] = path
    return pictures


def folders_of(params: Params, root: Path) -> dict[str, Path]:
    """The three folders that the params name, by column; a relative one is the project's."""
    prior = params.prior
    return {"lq": root / prior.lq_folder, "id": root / prior.id_folder, "gp": root / prior.gp_folder}

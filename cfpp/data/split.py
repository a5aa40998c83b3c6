"""Which face goes to which split and shard: by its own name, so that new faces leave old shards alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cfpp.data.draws import unit_hash
from cfpp.data.manifest import SPLITS
from cfpp.data.shards import DataError


@dataclass(frozen=True, order=True)
class FaceRef:
    """A face before it is made.

    Attributes:
        key: unique, letters, digits, _ and -.
        identity: the person; all of a person's faces fall in one split.
        source: where the picture comes from: a relative path, or procedural/IDENTITY/SHOT.
    """

    key: str
    identity: str
    source: str


Plan = dict[tuple[str, int], tuple[FaceRef, ...]]


def split_of(identity: str, val_fraction: float, test_fraction: float) -> str:
    """The split of a person: a function of the name alone, not of the seed or of who else is there.

    The test split does not change with `val_fraction`, so that results stay comparable.
    """
    place = unit_hash("split", identity)
    if place < test_fraction:
        return "test"
    return "val" if place < test_fraction + val_fraction else "train"


def cut(faces: Sequence[FaceRef], size: int) -> list[tuple[FaceRef, ...]]:
    """Cut faces, in the order of their keys, into shards of about `size`, between half and twice that.

    A shard begins where a key's own hash says so (content-defined chunking), so that one face more or less
    changes the shard that it falls into and, rarely, the next. Faces that come with names of their own, a new
    folder or higher numbers, fill new shards and leave all others untouched.
    """
    least, most = -(-size // 2), 2 * size
    chance = 1 / (size - least + 1)  # of an end at each face from `least` on: the mean length is `size`
    shards: list[tuple[FaceRef, ...]] = []
    start = 0
    for place, face in enumerate(faces):
        length = place - start
        if length >= most or (length >= least and unit_hash("shard", face.key) < chance):
            shards.append(tuple(faces[start:place]))
            start = place
    return [*shards, tuple(faces[start:])] if start < len(faces) else shards


def plan_shards(
    faces: Iterable[FaceRef],
    *,
    val_fraction: float,
    test_fraction: float,
    shard_size: int,
    held_out: Iterable[FaceRef] = (),
) -> Plan:
    """Lay out the faces of each split in shards of about `shard_size`, see `cut`; keys ascend over them.

    Args:
        held_out: faces of the test split, whatever their names.

    Raises:
        DataError: no faces, a repeated key, a split with a share above 0 got nobody, or a person held out is
            among the others.
    """
    by_split: dict[str, list[FaceRef]] = {split: [] for split in SPLITS}
    for face in faces:
        by_split[split_of(face.identity, val_fraction, test_fraction)].append(face)
    by_split["test"] += held_out
    tested = {face.identity for face in by_split["test"]}
    if both := tested & {face.identity for split in ("train", "val") for face in by_split[split]}:
        raise DataError(f"{min(both)} is in data.folder and in data.test_folder; a test needs other people")
    _check(by_split, {"train": 1.0, "val": val_fraction, "test": test_fraction})
    return {
        (split, number): faces
        for split, members in by_split.items()
        for number, faces in enumerate(cut(sorted(members), shard_size))
    }


def _check(by_split: dict[str, list[FaceRef]], shares: dict[str, float]) -> None:
    everyone: Sequence[FaceRef] = [face for members in by_split.values() for face in members]
    if not everyone:
        raise DataError("no faces: there is nothing to shard")
    if len({face.key for face in everyone}) < len(everyone):
        raise DataError("two faces have the same key")
    people = len({face.identity for face in everyone})
    for split, members in by_split.items():
        if not members and shares[split] > 0:
            raise DataError(
                f"none of {people} identities falls in split {split}: "
                f"add faces, or change data.val_fraction and data.test_fraction"
            )

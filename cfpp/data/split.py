"""Which face goes to which split and which shard: by hash, so that new faces move no old ones."""

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


def shard_of(key: str, shards: int) -> int:
    """The shard of a key among `shards` of them, by linear hashing.

    Going from n to n + 1 shards splits one shard in two and leaves all others as they are.
    Between powers of two, shards not yet split hold up to twice as many keys as the others.
    """
    whole = int(unit_hash("shard", key) * 2**48)
    level = 1 << (shards.bit_length() - 1)  # the largest power of two <= shards
    place = whole % (2 * level)
    return place if place < shards else whole % level


def plan_shards(
    faces: Iterable[FaceRef], *, val_fraction: float, test_fraction: float, shard_size: int
) -> Plan:
    """Lay out faces in shards of about `shard_size` (at most some twice that), keys ascending.

    The hash decides the shard, so a shard number without a face is possible and simply not there.

    Raises:
        DataError: no faces, a repeated key, or a split with a share above 0 got nobody.
    """
    by_split: dict[str, list[FaceRef]] = {split: [] for split in SPLITS}
    for face in faces:
        by_split[split_of(face.identity, val_fraction, test_fraction)].append(face)
    _check(by_split, {"train": 1.0, "val": val_fraction, "test": test_fraction})
    plan: dict[tuple[str, int], list[FaceRef]] = {}
    for split, members in by_split.items():
        shards = max(1, -(-len(members) // shard_size))
        for face in sorted(members):
            plan.setdefault((split, shard_of(face.key, shards)), []).append(face)
    return {place: tuple(members) for place, members in sorted(plan.items())}


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

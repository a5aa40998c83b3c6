"""People stay together, and new faces leave old shards alone."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpp.data.shards import DataError
from cfpp.data.split import FaceRef, cut, plan_shards, split_of


def people(count: int, shots: int = 3) -> list[FaceRef]:
    return [FaceRef(f"p{i:05d}s{s}", f"p{i:05d}", "x") for i in range(count) for s in range(shots)]


def test_a_person_is_in_one_split_and_shares_are_kept() -> None:
    plan = plan_shards(people(2000), val_fraction=0.1, test_fraction=0.2, shard_size=40)
    splits: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for (split, _), faces in plan.items():
        splits.setdefault(split, set()).update(face.identity for face in faces)
        counts[split] += len(faces)
    assert not splits["train"] & splits["val"]
    assert not splits["train"] & splits["test"]
    assert not splits["val"] & splits["test"]
    assert sum(counts.values()) == 6000
    assert abs(counts["val"] / 6000 - 0.1) < 0.03
    assert abs(counts["test"] / 6000 - 0.2) < 0.04


@given(st.text(max_size=10), st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0, 0.5))
def test_the_test_split_ignores_the_val_share(who: str, val: float, other: float, test: float) -> None:
    assert (split_of(who, val, test) == "test") == (split_of(who, other, test) == "test")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60))
def test_a_plan_holds_every_key_once_in_order(count: int, shard_size: int) -> None:
    faces = people(count, 1)
    plan = plan_shards(faces, val_fraction=0.0, test_fraction=0.0, shard_size=shard_size)
    planned = [face for members in plan.values() for face in members]
    assert sorted(planned) == sorted(faces)
    assert all(list(members) == sorted(members) for members in plan.values())
    assert plan == plan_shards(faces[::-1], val_fraction=0.0, test_fraction=0.0, shard_size=shard_size)


@pytest.mark.parametrize("size", [1, 2, 5, 40, 100])
def test_shards_are_as_large_as_asked_for(size: int) -> None:
    shards = cut(sorted(people(20_000, 1)), size)
    lengths = [len(shard) for shard in shards]
    assert abs(sum(lengths) / len(lengths) / size - 1) < 0.1
    assert max(lengths) <= 2 * size
    assert min(lengths[:-1]) >= size // 2


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 40), st.integers(0, 1999))
def test_one_face_less_or_more_changes_a_shard_or_two(size: int, place: int) -> None:
    faces = sorted(people(2000, 1))
    whole, less = cut(faces, size), cut(faces[:place] + faces[place + 1 :], size)
    # A shard that grew to twice the size ends there, and so may be followed by a few more that are cut anew.
    assert len({*whole} - {*less}) <= 5
    assert len({*less} - {*whole}) <= 5


def test_faces_with_new_names_fill_new_shards() -> None:
    faces = sorted(people(4000, 1))
    old, new = cut(faces[:3636], 40), cut(faces, 40)  # 10 % more
    assert new[: len(old) - 1] == old[:-1]  # all but the last, which was not full


def test_an_empty_split_and_a_repeated_key_are_errors() -> None:
    with pytest.raises(DataError, match="falls in split"):
        plan_shards(people(2), val_fraction=0.01, test_fraction=0.01, shard_size=4)
    with pytest.raises(DataError, match="same key"):
        plan_shards(people(9) + people(9), val_fraction=0.0, test_fraction=0.0, shard_size=4)
    with pytest.raises(DataError, match="no faces"):
        plan_shards([], val_fraction=0.0, test_fraction=0.0, shard_size=4)

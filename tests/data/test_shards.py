"""Shards: the same samples give the same bytes, and nothing half-written is at their path."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpp.data.shards import ShardError, read_shard, scan_shard, write_shard
from cfpp.files import file_digest

SAMPLES = [("a", {"hq.png": b"1" * 700, "meta.json": b"{}"}), ("b-2", {"0.lq.png": b"", "hq.png": b"xyz"})]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "x/00000.tar", SAMPLES)
    path = tmp_path / "x/00000.tar"
    assert list(read_shard(path, file.sha256)) == SAMPLES
    assert (file.count, file.bytes, file.sha256) == (2, path.stat().st_size, file_digest(path))
    assert [p.name for p in path.parent.iterdir()] == ["00000.tar"]
    # webdataset itself groups the members under the same keys
    theirs = {
        sample["__key__"]: set(sample) for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    }
    assert {"hq.png", "meta.json"} <= theirs["a"]
    assert {"0.lq.png", "hq.png"} <= theirs["b-2"]


def test_offsets_point_at_the_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", SAMPLES)
    whole = (tmp_path / "s.tar").read_bytes()
    found = {(m.key, m.column): whole[m.offset : m.offset + m.size] for m in scan_shard(tmp_path / "s.tar")}
    assert found == {(key, name): data for key, members in SAMPLES for name, data in members.items()}


def test_bytes_do_not_depend_on_the_clock_or_member_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_shard(tmp_path / "1.tar", SAMPLES)
    monkeypatch.setattr("time.time", lambda: 5.0)
    turned = [(key, dict(reversed(members.items()))) for key, members in SAMPLES]
    assert write_shard(tmp_path / "2.tar", turned).sha256 == first.sha256


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True), st.binary(max_size=2000)))
def test_any_bytes_survive(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]) -> None:
    path = tmp_path_factory.mktemp("s") / "s.tar"
    samples = [(key, {"hq.png": data}) for key, data in sorted(content.items())]
    write_shard(path, samples)
    assert list(read_shard(path)) == samples


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], ["a.b"], ["a/b"], [""], ["é"], ["x" * 81]])
def test_bad_keys_are_refused(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key"):
        write_shard(tmp_path / "s.tar", [(key, {"hq.png": b"1"}) for key in keys])
    assert not (tmp_path / "s.tar").exists()


def test_a_writer_that_dies_leaves_the_old_shard(tmp_path: Path) -> None:
    before = write_shard(tmp_path / "s.tar", SAMPLES)

    def dying() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield "a", {"hq.png": b"new"}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_shard(tmp_path / "s.tar", dying())
    assert file_digest(tmp_path / "s.tar") == before.sha256


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with pytest.raises(ShardError, match="no such shard"):
        list(read_shard(path))
    file = write_shard(path, SAMPLES)
    damaged = bytearray(path.read_bytes())
    damaged[600] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ShardError, match="not those in the manifest"):
        list(read_shard(path, file.sha256))
    path.write_bytes(b"no tar" * 500)
    with pytest.raises(ShardError, match="not a whole tar"):
        list(scan_shard(path))
    path.write_bytes(bytes(damaged)[:900])
    with pytest.raises(ShardError, match="not a whole tar"):
        list(scan_shard(path))


def test_members_are_plain_files_of_nobody(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", SAMPLES)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "s.tar").read_bytes())) as tar:
        assert {(info.mtime, info.uid, info.isfile()) for info in tar} == {(0, 0, True)}

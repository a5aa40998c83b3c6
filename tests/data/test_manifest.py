"""Manifests say what is there, byte-identically, and the books balance."""

import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfpp import imports
from cfpp.data import draws
from cfpp.data.fingerprint import fingerprint
from cfpp.data.manifest import (
    AccountingError,
    Manifest,
    ManifestError,
    QuarantineRow,
    ShardRow,
    check_accounting,
    shard_path,
)
from cfpp.data.shards import write_shard

ROW = {name: [value] for name, value in asdict(ShardRow("train", 0, 1, 1, "sha", "in", "config", 0)).items()}


def stage(folder: Path) -> Manifest:
    manifest = Manifest()
    for name, shard in (("train", 1), ("train", 0), ("test", 0)):
        path = shard_path(folder, name, shard)
        file = write_shard(path, [(f"k{shard}", {"hq.png": name.encode()})])
        row = ShardRow(name, shard, file.count, file.bytes, file.sha256, "in", "config", 1)
        manifest.put(row, [QuarantineRow(name, shard, "bad", "bad.jpg", "truncated")])
    return manifest


def test_round_trip_and_identical_bytes(tmp_path: Path) -> None:
    manifest = stage(tmp_path)
    manifest.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded == manifest
    loaded.save(tmp_path / "again")
    for name in ("manifest.parquet", "quarantine.parquet"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert Manifest.load(tmp_path / "nowhere") == Manifest()
    assert [row.shard for row in loaded.rows("train")] == [0, 1]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"split": ["train"]}, "its columns are not those"),
        ({**ROW, "more": ["x"]}, "its columns are not those"),
        ({**ROW, "shard": ["0"]}, "its columns are not those"),
        ({**ROW, "sha256": pyarrow.array([None], pyarrow.string())}, "empty cells"),
        ({name: values * 2 for name, values in ROW.items()}, "a shard has two rows"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, table: dict[str, Any], why: str) -> None:
    path = tmp_path / "manifest.parquet"
    parquet.write_table(pyarrow.table(ROW), path)
    assert len(Manifest.load(tmp_path).shards) == 1
    parquet.write_table(pyarrow.table(table), path)
    with pytest.raises(ManifestError, match=f"manifest.parquet: .*{why}") as caught:
        Manifest.load(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # workers send it


def test_a_flipped_page_is_not_read_as_another_table(tmp_path: Path) -> None:
    stage(tmp_path).save(tmp_path)
    path = tmp_path / "quarantine.parquet"
    path.write_bytes(path.read_bytes().replace(b"truncated", b"truncate!", 1))
    with pytest.raises(ManifestError, match="damaged"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("kind", [pyarrow.ArrowNotImplementedError, TypeError, MemoryError])
def test_whatever_a_damaged_byte_raises_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise kind("odd\nbyte")

    stage(tmp_path).save(tmp_path)
    monkeypatch.setattr(parquet, "read_table", failing)
    with pytest.raises(ManifestError, match=r"manifest\.parquet: damaged, not a table: odd byte; remove it"):
        Manifest.load(tmp_path)


def test_a_shard_whose_refusals_are_lost_does_not_hold(tmp_path: Path) -> None:
    stage(tmp_path).save(tmp_path)
    (tmp_path / "quarantine.parquet").unlink()
    assert not Manifest.load(tmp_path).holds(tmp_path, "train", 0, "in", "config")


def test_a_shard_holds_only_as_it_was_made(tmp_path: Path) -> None:
    manifest = stage(tmp_path)
    assert manifest.holds(tmp_path, "train", 0, "in", "config")
    assert not manifest.holds(tmp_path, "train", 0, "other", "config")
    assert not manifest.holds(tmp_path, "train", 0, "in", "other")
    assert not manifest.holds(tmp_path, "train", 7, "in", "config")
    path = shard_path(tmp_path, "train", 0)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the same size, other bytes
    path.write_bytes(data)
    assert not manifest.holds(tmp_path, "train", 0, "in", "config")
    shard_path(tmp_path, "train", 1).unlink()
    assert not manifest.holds(tmp_path, "train", 1, "in", "config")


def test_the_identity_of_the_data_is_its_shards(tmp_path: Path) -> None:
    manifest = stage(tmp_path)
    before = manifest.sha256()
    row = manifest.shards["train", 0]
    manifest.put(replace(row, config_hash="other"), [])
    assert manifest.sha256() == before
    manifest.put(replace(row, sha256="0" * 64), [])
    assert manifest.sha256() != before


keys = st.sets(st.integers(0, 50).map(str))


@given(keys, keys, keys)
def test_accounting_holds_exactly_when_nothing_is_lost_or_invented(
    planned: set[str], written: set[str], refused: set[str]
) -> None:
    balanced = planned == written | refused and not written & refused
    if balanced:
        check_accounting(planned, written, refused)
    else:
        with pytest.raises(AccountingError):
            check_accounting(planned, written, refused)
    check_accounting(planned, planned, [])
    check_accounting(planned, planned - refused, planned & refused)


def test_fingerprint_sees_meaning_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = ["cfpp.data.draws"]
    plain = fingerprint({"a": 1}, "x", code=code)
    assert plain == fingerprint({"a": 1}, "x", code=code)
    assert plain != fingerprint({"a": 2}, "x", code=code)
    assert plain != fingerprint({"a": 1}, "x", code=["cfpp.data.split"])
    uses_draws = fingerprint("x", code=["cfpp.data.degradation"])
    package = tmp_path / "cfpp" / "data"
    package.mkdir(parents=True)
    for name in ("cfpp/__init__.py", "cfpp/data/__init__.py", "cfpp/data/degradation.py"):
        shutil.copyfile(imports.ROOT / name, tmp_path / name)
    source = Path(draws.__file__).read_text()
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    (package / "draws.py").write_text("# a comment\n" + source.replace('"""A uniform', '"""Some uniform'))
    assert fingerprint({"a": 1}, "x", code=code) == plain
    (package / "draws.py").write_text(source.replace("2**53", "2**52"))
    assert fingerprint({"a": 1}, "x", code=code) != plain
    assert fingerprint("x", code=["cfpp.data.degradation"]) != uses_draws

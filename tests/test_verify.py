"""`cfpp verify`: whatever is not as the manifests say is found, and all of it."""

import hashlib
import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpp import storage
from cfpp.audit import verify as module
from cfpp.audit.verify import Verification, verify
from cfpp.cli import main
from cfpp.config import load_params
from cfpp.data.manifest import Manifest, ManifestError
from tests.s3 import s3_server
from tests.tiny_project import add_shard, move_to_bucket, write_project

STAGES = ("shards", "codes", "restored", "pairs")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that nobody changes."""
    return write_project(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One to be damaged, which is the current folder."""
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path / "p")
    return write_project(tmp_path / "p")


def check(root: Path) -> Verification:
    return verify(root, load_params(root / "params.yaml").prior)


def test_a_whole_project_has_no_findings_and_is_counted(whole: Path) -> None:
    outcome = check(whole)
    assert outcome.findings == []
    assert {name: (t.shards, t.keys, t.quarantined) for name, t in outcome.tallies.items()} == {
        "data/shards": (4, 8, 1),
        "data/codes": (3, 6, 0),
        "data/restored": (4, 7, 1),
        "data/pairs": (4, 6, 1),
    }
    size = sum(path.stat().st_size for path in (whole / "data/pairs").rglob("*.tar"))
    assert outcome.tallies["data/pairs"].bytes == size


@settings(max_examples=60)
@given(st.data())
def test_one_flipped_bit_anywhere_is_found_and_named(whole: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted((whole / "data").rglob("*.*"))))
    table = path.suffix == ".parquet"
    before, manifest = path.read_bytes(), Manifest.load(path.parent) if table else None
    place = data.draw(st.integers(0, 8 * len(before) - 1))
    damaged = bytearray(before)
    damaged[place // 8] ^= 1 << place % 8
    path.write_bytes(damaged)
    try:
        findings = check(whole).findings
        if table and not findings:  # bits that say nothing, such as who wrote it
            assert Manifest.load(path.parent) == manifest
            return
    finally:
        path.write_bytes(before)
    named = f"{path}: " if table else f"{path}: its bytes are not those of its manifest"
    assert any(line.startswith(named) for line in findings)
    assert all(line.startswith(f"{path}: ") for line in findings)  # one cause, no consequences


@settings(max_examples=20)
@given(st.integers(0, 10239))
def test_a_shard_cut_short_anywhere_is_found(whole: Path, length: int) -> None:
    path = whole / "data/shards/train/00000.tar"
    before = path.read_bytes()
    path.write_bytes(before[:length])
    try:
        findings = check(whole).findings
    finally:
        path.write_bytes(before)
    assert f"{path}: {length} bytes, its manifest says {len(before)}; remove" in findings[0]


def bad_tar(kind: str) -> bytes:
    """A tar as a stranger might hand it in, made by tarfile alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, data: bytes = b"1" * 600) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        add("ada.hq.png")
        if kind in ("symlink", "hardlink"):
            link = tarfile.TarInfo("bob.hq.png")
            link.type = tarfile.SYMTYPE if kind == "symlink" else tarfile.LNKTYPE
            link.linkname = "/etc/passwd" if kind == "symlink" else "ada.hq.png"
            tar.addfile(link)
        elif kind != "truncated":
            add({"climbing": "../evil.png", "absolute": "/evil.png", "duplicate": "ada.hq.png"}[kind])
        add("cy.hq.png")
    whole = buffer.getvalue()
    return whole[: 512 + 1024 + 512 + 300] if kind == "truncated" else whole


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("climbing", "'../evil.png' is not called KEY.COLUMN"),
        ("absolute", "'/evil.png' is not called KEY.COLUMN"),
        ("symlink", "'bob.hq.png' is no plain file"),
        ("hardlink", "'bob.hq.png' is no plain file"),
        ("duplicate", "'ada.hq.png' is there twice"),
        ("truncated", "not a whole tar file"),
    ],
)
def test_a_bad_tar_is_named_even_where_the_manifest_agrees(project: Path, kind: str, named: str) -> None:
    path = project / "data/shards/train/00000.tar"
    path.write_bytes(bad_tar(kind))
    manifest = Manifest.load(project / "data/shards")
    row = manifest.shards["train", 0]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.put(replace(row, bytes=path.stat().st_size, sha256=digest), manifest.quarantine["train", 0])
    manifest.save(project / "data/shards")
    mine = [line for line in check(project).findings if line.startswith(f"{path}: ")]
    assert len(mine) == 1
    assert named in mine[0]
    assert "dvc repro -f -s shard" in mine[0]


def test_a_damaged_header_cannot_hide_the_members_behind_it(project: Path) -> None:
    path = project / "data/shards/train/00000.tar"
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"cy.hq.png") + 1] ^= 1  # its checksum fails: tarfile takes it for the end of the tar
    path.write_bytes(whole)
    assert any("damaged at byte" in line for line in check(project).findings)


def test_every_finding_is_listed_not_just_the_first(project: Path) -> None:
    data = project / "data"
    (data / "pairs/test/00000.tar").unlink()
    shutil.copy(data / "shards/val/00000.tar", data / "shards/val/00007.tar")
    (data / "restored/train/00001.tar.tmp").write_bytes(b"half")
    (data / "codes/manifest.parquet").write_bytes(b"PAR1 no more")
    manifest = Manifest.load(data / "restored")
    manifest.put(replace(manifest.shards["test", 0], count=9), [])
    manifest.save(data / "restored")
    findings = check(project).findings
    for expected in (
        f"{data}/pairs/test/00000.tar: there is no such shard",
        f"{data}/shards/val/00007.tar: no row of its manifest lists it",
        f"{data}/restored/train/00001.tar.tmp: half-written",
        "manifest.parquet: damaged, not a table",
        f"{data}/restored/test/00000.tar: holds 2 keys, its manifest says 9",
    ):
        assert sum(expected in line for line in findings) == 1, (expected, findings)
    assert len(findings) == 5


@pytest.mark.parametrize("folder", STAGES)
@pytest.mark.parametrize("table", ["manifest.parquet", "quarantine.parquet"])
def test_a_damaged_table_has_no_consequences_and_a_cure_that_works(
    project: Path, folder: str, table: str
) -> None:
    path = project / "data" / folder / table
    path.write_bytes(b"PAR1 no more")
    [finding] = check(project).findings
    assert finding.startswith(f"{path}: damaged, not a table")
    if folder == "codes":
        assert finding.endswith("; remove data/codes: no prior is trained here now (prior.source)")
        return
    stage = {"shards": "shard", "restored": "synthesize", "pairs": "pair"}[folder]
    assert finding.endswith(f"; remove it and run dvc repro -f -s {stage}")
    with pytest.raises(ManifestError, match="remove it and run its stage again"):
        Manifest.load(path.parent)  # as that stage does
    path.unlink()
    manifest = Manifest.load(path.parent)
    for row in manifest.shards.values():  # whatever the table told of is made anew
        held = manifest.holds(path.parent, row.split, row.shard, row.input_sha256, row.config_hash)
        assert held == (row.quarantined == 0)
    assert bool(manifest.shards) == (table == "quarantine.parquet")


def test_codes_that_no_stage_makes_now_are_to_be_removed(project: Path) -> None:
    path = project / "data/codes/train/00000.tar"
    path.unlink()
    missing = f"{path}: there is no such shard, but its manifest lists it; "
    assert check(project).findings == [
        f"{missing}remove data/codes: no prior is trained here now (prior.source)"
    ]
    prior = replace(load_params().prior, source="train")
    assert verify(project, prior).findings == [f"{missing}run dvc repro -f -s prior"]


def test_a_stage_must_be_made_from_the_one_before(project: Path) -> None:
    data, manifest = project / "data", Manifest.load(project / "data/restored")
    old, spot = manifest.shards["test", 0], ("test", 0)
    face = {"0.lq.png": b"1"}

    def findings() -> list[str]:
        manifest.save(data / "restored")
        return [line for line in check(project).findings if "/restored/test/" in line]

    add_shard(data / "restored", manifest, spot, {"tim": face}, old.input_sha256)
    assert "lacks tom of data/shards, not quarantined either" in findings()[0]
    add_shard(data / "restored", manifest, spot, {"tim": face}, old.input_sha256, refused="tom")
    assert findings() == []
    add_shard(data / "restored", manifest, spot, {"tim": face, "xi": face}, old.input_sha256, refused="tom")
    assert "has xi, not in data/shards" in findings()[0]
    add_shard(data / "restored", manifest, spot, {"tim": face, "tom": face}, "0" * 64)
    assert "was made from another data/shards" in findings()[0]
    # pictures of another prior count for the input, too: it cannot be compared
    prior = replace(load_params().prior, kind="folder", lq_folder="lq", id_folder="id", gp_folder="gp")
    assert verify(project, prior).findings == [
        f"{data}/pairs/test/00000.tar: was made from another data/restored; run dvc repro -f -s pair"
    ]
    manifest.drop(*spot)
    (data / "restored/test/00000.tar").unlink()
    assert "its manifest does not list it; run dvc repro -f -s synthesize" in findings()[0]


def test_quarantine_tables_must_add_up(project: Path) -> None:
    folder = project / "data/restored"
    manifest = Manifest.load(folder)
    row, [refused] = manifest.shards["train", 0], manifest.quarantine["train", 0]
    manifest.put(row, [])
    manifest.save(folder)
    findings = check(project).findings
    assert any("quarantine.parquet: 0 rows of train/00000.tar, the manifest says 1" in f for f in findings)
    assert any("lacks bob of data/shards" in line for line in findings)
    manifest.put(replace(row, quarantined=2), [refused, replace(refused, key="ada")])
    manifest.quarantine["train", 5] = (replace(refused, shard=5),)
    manifest.save(folder)
    findings = check(project).findings
    assert any("ada of train/00000.tar made it into the shard all the same" in line for line in findings)
    assert any("has rows of train/00005.tar, the manifest has none" in line for line in findings)


def test_a_key_in_two_shards_is_found_across_splits(project: Path) -> None:
    folder = project / "data/shards"
    manifest = Manifest.load(folder)
    add_shard(folder, manifest, ("test", 0), {"ada": {"hq.png": b"1"}}, "files")
    manifest.save(folder)
    assert any("has key ada, as test/00000.tar has" in line for line in check(project).findings)


def test_the_command_fails_with_findings_and_sums_up_without(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "data/shards: 4 sound shards, 8 keys, 1 quarantined" in out
    assert "every byte is as its manifest says" in out
    (project / "data/pairs/val/00000.tar").unlink()
    assert main(["verify"]) == 1
    captured = capsys.readouterr()
    assert "pairs/val/00000.tar: there is no such shard" in captured.out
    assert captured.err == "cfpp verify: 1 findings, see above\n"
    shutil.rmtree(project / "data")
    assert main(["verify"]) == 1
    assert "no stage has written anything; run dvc repro" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_does_not_end_the_search(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = project / "data/shards/train/00000.tar"
    digest = module.file_digest

    def failing(path: Path) -> str:
        if path == broken:
            raise OSError(5, "Input/output error")
        return digest(path)

    monkeypatch.setattr(module, "file_digest", failing)
    assert check(project).findings == [
        f"{broken}: cannot be read: Input/output error; "
        f"remove data/shards/train/00000.tar and run dvc repro -f -s shard"
    ]


@pytest.mark.slow
def test_a_bucket_is_verified_as_a_folder_is(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = move_to_bucket(project)
        assert main(["verify"]) == 0
        assert "data/pairs: 4 sound shards" in capsys.readouterr().out
        damaged = project / "damaged"
        damaged.write_bytes(storage.read_bytes(bucket / "data/pairs/test/00000.tar")[:-1] + b"x")
        storage.copy(damaged, bucket / "data/pairs/test/00000.tar")
        assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert f"{bucket}/data/pairs/test/00000.tar: its bytes are not those of its manifest" in out
    assert "cfpp-" not in out  # the copy that was read is nobody's business

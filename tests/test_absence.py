"""`cfpp verify --absent`: a removed face is proven gone, and one that is not is named by every file."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from cfpp.cli import main
from tests.s3 import s3_server
from tests.tiny_project import FACES, move_to_bucket, write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, on a machine that has copied no other project's shards."""
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path / "p")
    monkeypatch.setenv("CFPP_CACHE", str(tmp_path / "copies"))
    return write_project(tmp_path / "p")


def absent(capsys: pytest.CaptureFixture[str], *keys: str) -> tuple[int, str]:
    code = main(["verify", "--absent", *keys])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def take_faces_from(project: Path, *names: str) -> None:
    """Let the params name faces/, and put pictures there."""
    for name in names:
        path = project / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a picture")
    params = project / "params.yaml"
    text = params.read_text().replace("source: procedural", "source: folder", 1)
    params.write_text(text.replace('  folder: ""', "  folder: faces", 1))


def test_a_key_that_is_nowhere_is_absent_and_one_that_is_there_is_named_by_every_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = absent(capsys, "nobody", "none")
    assert code == 0
    assert "searched data/restored: 6 files" in out
    assert "nobody: absent" in out
    assert "none: absent" in out
    for key in [key for shards in FACES.values() for keys in shards for key in keys]:
        code, out = absent(capsys, key)
        holding = [  # by plain bytes: keys are short words that pixels do not spell
            path
            for path in (project / "data").rglob("*")
            if path.is_file() and path.name != "manifest.parquet" and f"{key}".encode() in path.read_bytes()
        ]
        assert code == 1
        assert f"{key}: still in {len(holding)} files" in out
        assert all(f"  {path}; " in out for path in holding)


def test_a_refused_face_is_not_gone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = absent(capsys, "zoe")
    assert code == 1
    assert "data/shards/quarantine.parquet; take its source away" in out


def test_copies_that_lie_about_are_searched(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = project / "data/shards/test/00000.tar"
    cached = project / ".dvc/cache/files/md5/ab/cdef"
    listing = project / ".dvc/cache/files/md5/12/34.dir"
    copied = project.parent / "copies/12/1234"
    report = project / "reports/per_image.csv"
    page = project / "mlartifacts/1/artifacts/report.html"
    picture = project / "faces/tim.png"
    take_faces_from(project, picture.name)
    for path in (cached, listing, copied, report, page):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in (cached, copied):
        shutil.copy(shard, path)
    listing.write_text(
        json.dumps([{"md5": "0", "relpath": "tim.png"}, {"md5": "1", "relpath": "test/00000.tar"}])
    )
    report.write_text("key,variant,person,kind,psnr\ntim,0,p,out,24.1\n")
    page.write_text('<span class="name">tim, degradation 0; longest</span>')
    shutil.rmtree(project / "data/pairs")
    code, out = absent(capsys, "tim")
    assert code == 1
    for path in (cached, listing):
        assert f"{path}; run dvc gc -w" in out
    assert f"{copied}; remove it" in out
    assert f"{report}; run dvc repro -f -s evaluate" in out
    assert f"{page}; delete its run" in out
    assert f"{picture}; remove it" in out
    assert "tim: still in 8 files" in out  # and two shards
    assert absent(capsys, "00000")[0] == 0  # the name of a shard is no key


def test_what_cannot_be_read_proves_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "data/shards/train/00000.tar"
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"cy.hq.png")] ^= 1
    path.write_bytes(whole)
    half = project / "data/restored/train/00000.tar.tmp"
    half.write_bytes((project / "data/restored/train/00000.tar").read_bytes()[:1500])
    (project / "data/codes/quarantine.parquet").write_bytes(b"no table")
    code, out = absent(capsys, "nobody")
    assert code == 1
    for place in (path, half, project / "data/codes/quarantine.parquet"):
        assert out.count(f"{place}: ") == 1
    assert "3 places cannot be looked through" in out


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", '[{"md5": "0"}]', "7", '[{"relpath": 7}]'])
def test_a_list_of_dvcs_that_is_none_proves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    listing = project / ".dvc/cache/files/md5/12/34.dir"
    listing.parent.mkdir(parents=True)
    listing.write_text(content)
    code, out = absent(capsys, "nobody")
    assert code == 1
    assert f"{listing}: not a list of files as DVC writes them" in out


def test_a_table_whose_keys_are_no_texts_proves_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "data/pairs/quarantine.parquet"
    parquet.write_table(pyarrow.table({"key": [1], "source": [[2]]}), path)
    code, out = absent(capsys, "nobody")
    assert code == 1
    assert f"{path}: key and source are not texts" in out


def test_a_key_that_others_may_stand_for_is_not_proven_absent(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take_faces_from(project, "a/una.jpg", "b/una.jpg", "una-2.jpg")
    keys = sorted(
        f"una-{hashlib.sha256(name.encode()).hexdigest()[:10]}" for name in ("a/una.jpg", "b/una.jpg")
    )
    code, out = absent(capsys, "una", "TIM", "nobody")
    assert code == 1
    assert f"una: unproven: {', '.join(keys)} may be this face; ask for the key itself" in out
    assert "TIM: unproven: tim may be this face" in out
    assert "nobody: absent" in out
    assert "una, TIM: not proven gone" in out
    assert f"{keys[0]}: still in 1 files" in absent(capsys, keys[0])[1]


def test_a_folder_that_cannot_be_listed_proves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, scandir = project / "data/codes/train", os.scandir

    def listing(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)
    code, out = absent(capsys, "nobody")
    assert code == 1
    assert f"{closed}: cannot be listed: Permission denied" in out


def test_dvcs_cache_is_searched_wherever_its_settings_put_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shard, cached = project / "data/shards/test/00000.tar", project.parent / "far/files/md5/ab/cdef"
    settings = project.parent / "settings"
    for folder in (project / ".dvc", cached.parent, settings):
        folder.mkdir(parents=True)
    (settings / "config").write_text(f"[cache]\n    dir = {project.parent}/far\n")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(settings))
    shard.rename(cached)
    code, out = absent(capsys, "tim")
    assert code == 1
    assert f"{cached}; run dvc gc -w" in out


def test_a_cache_that_dvc_cannot_name_proves_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[cache\n")
    code, out = absent(capsys, "nobody")
    assert code == 1
    assert "DVC's cache: dvc cache dir does not say where it is (" in out


def test_what_is_no_key_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = absent(capsys, "tim.png")
    assert code == 1
    assert "'tim.png': not a key" in out


@pytest.mark.slow
def test_a_bucket_is_searched_and_so_are_the_projects_copies_of_its_tables(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = move_to_bucket(project)
        code, out = absent(capsys, "bob")
        assert absent(capsys, "nobody")[0] == 0
    assert code == 1
    assert f"{bucket}/data/shards/train/00000.tar; " in out
    assert f"{bucket}/data/restored/quarantine.parquet; " in out
    assert f"{project}/data/restored/quarantine.parquet; " in out
    assert "bob: still in 4 files" in out  # and its codes

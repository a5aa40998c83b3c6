"""The commands, through the front door."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfpp.cli import main
from cfpp.config import load_params
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import encode_png
from cfpp.data.shards import write_shard
from cfpp.data.work_list import WorkList
from cfpp.models.face_detector import FaceDetector, Faces
from cfpp.restoration.restorer import Restorer
from cfpp.synthesis.degraded import degrader
from tests.restoration.test_photographs import Known, landmarks, smooth_photograph, turned
from tests.tiny_models import SIZE, write_models

REPOSITORY = Path(__file__).resolve().parents[1]


def test_a_profile_is_applied_and_says_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profiles").mkdir()
    for name in ("params.yaml", "profiles/ffhq512.yaml"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "ffhq512"]) == 0
    assert "changed run.size" in capsys.readouterr().out
    assert "size: 512" in (tmp_path / "params.yaml").read_text()


def test_an_unknown_profile_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cfpp profile: ")
    assert error.count("\n") == 1


def test_the_contact_sheet_has_a_column_per_person(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["faces", str(out), "--rows", "1", "--columns", "2", "--size", "64"]) == 0
    sheet = np.asarray(Image.open(out)).astype(float)
    assert sheet.shape == (64, 128, 3)
    assert np.abs(sheet[:, :64] - sheet[:, 64:]).mean() > 5


def restore(*arguments: str | Path) -> int:
    return main(["restore", *map(str, arguments), "--device", "cpu"])


def faces(folder: Path, *names: str) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    made = np.random.default_rng(0).integers(0, 256, (len(names), SIZE, SIZE, 3), dtype=np.uint8)
    for name, face in zip(names, made, strict=True):
        Image.fromarray(face).save(folder / name)
    return list(made)


def test_aligned_faces_are_restored_and_every_other_file_is_accounted_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    models = write_models(tmp_path / "models")
    made = faces(tmp_path / "in", "a.png", "b.png", "c.png")
    options = ["--aligned", "--model", models, "--batch", "2", "--w", "0.5", "--compare"]
    out = tmp_path / "out"
    assert restore(tmp_path / "in", out, *options) == 0
    told = capsys.readouterr().out
    assert "files: 3; restored: 3, faces: 3; copied: 0; skipped: 0; failed: 0" in told
    assert re.search(r"First picture after \d+\.\d s", told)
    expected = Restorer.load(models).restore(np.stack(made), w=0.5)
    for name, face in zip("abc", expected, strict=True):
        found = np.asarray(Image.open(out / f"{name}.png")).astype(int)
        assert np.abs(found - face).max() <= 1  # another batch may sum in another order
    assert np.asarray(Image.open(out / "compare/a.png.jpg")).shape == (SIZE, 2 * SIZE, 3)

    before = (out / "a.png").read_bytes()
    (tmp_path / "in/bad.png").write_bytes(b"no picture")
    (out / "c.png").unlink()
    assert restore(tmp_path / "in", tmp_path / "typo.png", out, *options) == 1
    told = capsys.readouterr()
    assert "restored: 0, faces: 0; copied: 0; skipped: 3; failed: 1; not found: 1" in told.out
    assert re.search(r"failed: .*bad\.png: not a picture", told.out)
    assert re.search(r"skipped: .*a\.png: .* is there already", told.out)
    assert "not found: " + str(tmp_path / "typo.png") in told.out
    assert "5 of 5 were not restored" in told.err
    assert (out / "a.png").read_bytes() == before
    (tmp_path / "in/bad.png").unlink()
    assert restore(tmp_path / "in", out, *options, "--overwrite", "--size", "100", "--w", "1") == 0
    assert Image.open(out / "a.png").size == (100, 100)


def test_photographs_need_a_detector_and_keep_their_surroundings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    one_thread: None,
) -> None:
    models = write_models(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    photograph = smooth_photograph(150, 160)
    Path("in").mkdir()
    Image.fromarray(photograph).save("in/x.png")
    Image.fromarray(np.full((50, 60, 3), 9, np.uint8)).save("in/plain.jpg")
    assert restore("in", "out", "--model", models) == 1
    assert "--aligned" in capsys.readouterr().err

    class Photos(Known):
        def detect(self, picture: np.ndarray, confidence: float = 0.8) -> Faces:
            return (Known(where) if len(picture) == 150 else Known()).detect(picture)

    where = landmarks(turned(1.0, 0, 80, 75))
    monkeypatch.setattr(FaceDetector, "load", lambda *rest, **options: Photos(where))
    assert restore("in", "out", "--model", models) == 0
    told = capsys.readouterr().out
    assert "files: 2; restored: 1, faces: 1; copied: 1" in told
    assert "copied: in/plain.jpg: no face found" in told
    out = np.asarray(Image.open("out/x.png"))
    np.testing.assert_array_equal(out[:, :45], photograph[:, :45])
    assert (out[70:80, 70:90] != photograph[70:80, 70:90]).mean() > 0.5
    assert Path("out/plain.jpg").read_bytes() == Path("in/plain.jpg").read_bytes()


def test_a_restoration_that_cannot_begin_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    faces(tmp_path / "in", "a.png", "sub.png")
    (tmp_path / "empty").mkdir()
    Path("file").write_bytes(b"mine")
    for arguments, reason in (
        (["in", "out", "--aligned", "--model", "none"], "none: no such model version"),
        (["in", "out", "--aligned"], r"codeformer-plus-plus@champion: .*--model models.*pipelines\.promote"),
        (["in", "out", "--aligned", "--model", "empty"], "not found"),
        (["in", "in/out", "--aligned"], "lies in the input folder"),
        (["in/a.png", "in", "--aligned"], "would replace the input"),
        (["in", "file", "--aligned"], "file: nothing can be written there"),
        (["in", "new/x/../out", "--aligned", "--model", "none"], "none: no such model version"),
        (["empty", "out"], "no pictures"),
        (["in", "out", "--size", "100"], "--size is for --aligned"),
        (["in", "out", "--w", "1.5"], "--w: must be 0 to 1"),
        (["in", "out", "--batch", "0"], "--batch: must be 1 or more"),
        (["in", "out", "--aligned", "--device", "gpu"], "device gpu: must be cpu, cuda"),
        (["in", "out", "--aligned", "--device", "cuda:77"], "device cuda:77: there is"),
    ):
        assert main(["restore", *arguments]) == 1
        error = capsys.readouterr().err
        assert re.search(reason, error), error
        assert not list(tmp_path.rglob("out"))
    assert Path("file").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "in", "empty", "file"}


def test_a_side_by_side_picture_does_not_meet_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces(tmp_path / "in", "a.png")
    faces(tmp_path / "in/compare", "a.png.jpg")
    assert restore(tmp_path / "in", tmp_path / "out", "--aligned", "--model", "none", "--compare") == 1
    assert re.search(r"in/compare/a\.png\.jpg: its result would be a side-by-side", capsys.readouterr().err)


def test_ctrl_c_is_one_line_and_exit_code_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt  # no signal: Ray Train leaves a handler of its own in a process

    monkeypatch.setattr(WorkList, "plan", interrupted)
    assert restore(tmp_path / "in", tmp_path / "out") == 130
    assert capsys.readouterr().err == "cfpp restore: interrupted\n"


def test_names_that_are_long_or_no_text_are_restored_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    models = write_models(tmp_path / "models")
    bad, long = os.fsdecode(b"\xff\xfe.png"), f"{'x' * 251}.png"
    faces(tmp_path / "in", long, "good.png")
    (tmp_path / "in" / bad).write_bytes(b"no picture")
    (tmp_path / "in" / os.fsdecode(b"\xff.txt")).write_bytes(b"")
    assert restore(tmp_path / "in", tmp_path / "out", "--aligned", "--model", models) == 1
    told = capsys.readouterr().out  # strict UTF-8
    assert "restored: 2, faces: 2; copied: 0; skipped: 0; failed: 1" in told
    assert r"\udcff\udcfe.png: not a picture" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {long, "good.png"}


def test_a_folder_prior_is_fed_and_its_pictures_are_restored_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = write_shard(
        shard_path(tmp_path / "data/shards", "test", 0), [("k", {"hq.png": encode_png(clean)})]
    )
    manifest = Manifest()
    manifest.put(ShardRow("test", 0, file.count, file.bytes, file.sha256, "", "", 0), [])
    manifest.save(tmp_path / "data/shards")
    params = (REPOSITORY / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params)
    monkeypatch.chdir(tmp_path)
    assert main(["prior", "inputs", "lq"]) == 0
    assert "1 degraded faces" in capsys.readouterr().out
    [expected] = degrader(load_params()).degrade("k", clean, "test")
    assert (np.asarray(Image.open("lq/k.0.png")) == expected.picture).all()

    models = write_models(tmp_path / "models", prior_kind="folder")
    for name in ("id", "gp"):
        Path(name).mkdir()
        Image.fromarray(clean if name == "id" else expected.picture).save(f"{name}/k.0.png")
    assert restore("id/k.0.png", "out", "--gp", "gp", "--model", models) == 0
    fused = Restorer.load(models).fuse(clean[None], expected.picture[None])[0]
    assert (np.asarray(Image.open("out/k.0.png")) == fused).all()
    again = ("id/k.0.png", "out", "--overwrite", "--model", models)
    Path("gp/k.0.png").write_bytes(b"no picture")
    assert restore(*again, "--gp", "gp") == 1
    assert "gp/k.0.png: not a picture" in capsys.readouterr().out
    Path("gp/k.0.png").unlink()
    assert restore(*again, "--gp", "gp") == 1
    assert "gp: holds 0 pictures called k.0" in capsys.readouterr().out
    os.mkfifo("gp/k.0.png")  # to read it would never end
    assert restore(*again, "--gp", "gp") == 1
    assert "gp: holds 0 pictures called k.0" in capsys.readouterr().out
    assert restore(*again, "--aligned") == 1
    assert "give it I_F, and I_G by --gp" in capsys.readouterr().err
    assert (np.asarray(Image.open("out/k.0.png")) == fused).all()

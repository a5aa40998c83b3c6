"""The commands, through the front door."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfpp.cli import main
from cfpp.config import load_params
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import encode_png
from cfpp.data.shards import write_shard
from cfpp.restore import Restorer
from cfpp.synthesis.degraded import degrader
from tests.tiny_models import write_models

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


def test_restoring_without_models_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["restore", str(tmp_path / "out"), "x.png", "--models", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_restoring_two_files_of_one_name_is_refused_before_one_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["restore", str(tmp_path / "out"), "a/x.png", "b/x.jpg"]) == 1
    assert "x.png; rename" in capsys.readouterr().err


def test_restoring_a_folder_or_a_missing_file_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = write_models(tmp_path / "models")
    for path in (tmp_path, tmp_path / "nothing.png"):
        assert main(["restore", str(tmp_path / "out"), str(path), "--models", str(models)]) == 1
        assert str(path) in capsys.readouterr().err


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
    assert main(["restore", "out", "id/k.0.png", "--gp", "gp", "--models", str(models)]) == 0
    fused = Restorer.load(models).fuse(clean[None], expected.picture[None])[0]
    assert (np.asarray(Image.open("out/k.0.png")) == fused).all()
    Path("gp/k.0.png").write_bytes(b"no picture")
    assert main(["restore", "out", "id/k.0.png", "--gp", "gp", "--models", str(models)]) == 1
    assert "gp/k.0.png: " in capsys.readouterr().err
    Path("gp/k.0.png").unlink()
    assert main(["restore", "out", "id/k.0.png", "--gp", "gp", "--models", str(models)]) == 1
    assert "gp: holds 0 pictures called k.0" in capsys.readouterr().err
    assert main(["restore", "out", "id/k.0.png", "--models", str(models)]) == 1
    assert "give it I_F and I_G" in capsys.readouterr().err

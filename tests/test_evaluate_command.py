"""`cfpp evaluate` and `cfpp testset` through the front door."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cfpp.cli import main
from cfpp.data.pictures import decode_photo, encode_png
from cfpp.data.procedural.render import render
from cfpp.restoration.restorer import PARTS, Restorer
from tests.tiny_models import SIZE, write_models

PEOPLE, SHOTS = 3, 2


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """params.yaml, clean faces, a test set of them, and tiny models."""
    root = tmp_path_factory.mktemp("project")
    params = (Path(__file__).resolve().parents[1] / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("bootstrap: 2000", "bootstrap: 50"))
    (root / "clean").mkdir()
    for person in range(PEOPLE):
        for shot in range(SHOTS):
            face = render(0, person, shot, SIZE)
            (root / f"clean/{face.key}.png").write_bytes(encode_png(face.picture))
    write_models(root / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["testset", "synthetic", "clean", "set", "--size", str(SIZE)]) == 0
    return root


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def summary(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return loaded


def test_a_folder_and_a_model_stand_in_one_table(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*.png")}
    arguments = ["evaluate", "lq=set/lq", "--truth", "set/hq", "--inputs", "set/lq", "--model", "ours=models"]
    assert main([*arguments, "--people", r"^(p\d+)s", "--procedural", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{PEOPLE * SHOTS} faces of {PEOPLE} people" in told
    assert "ours - lq" in told
    found = summary(tmp_path)
    assert set(found["restorers"]) == {"lq", "ours"}
    assert {"psnr", "ssim", "identity", "texture", "landmark_hq"} <= set(found["restorers"]["ours"])
    assert found["about"]["baseline"] == "lq"
    assert found["measured"]["ours"]["origin"].startswith("models (prior ")
    rows = pd.read_csv(tmp_path / "per_image.csv")
    restorer = Restorer.load("models")
    for stem in ("p00000s00", "p00002s01"):
        poor, clean = (decode_photo(Path(f"set/{kind}/{stem}.png").read_bytes()) for kind in ("lq", "hq"))
        error = restorer.restore(poor[None])[0].astype(float) - clean
        expected = 10 * np.log10(255**2 / np.square(error).mean())
        row = rows[(rows["key"] == stem) & (rows["restorer"] == "ours")]
        assert row["psnr"].item() == pytest.approx(expected, rel=1e-5)
        assert row["person"].item() == stem[:6]
    with Image.open(tmp_path / "faces.jpg") as picture:
        assert picture.width > picture.height / 2
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "per_image.csv", "faces.jpg"}
    assert {path: path.read_bytes() for path in project.rglob("*.png")} == before


@pytest.mark.slow
def test_a_version_of_the_registry_restores_as_its_models_do(project: Path, tmp_path: Path) -> None:
    import sys

    import mlflow

    from cfpp.config import load_params
    from cfpp.registry.package import log_package, register
    from cfpp.registry.provenance import part_tags
    from cfpp.registry.runs import Store

    path = list(sys.path)
    params = load_params()
    store = Store.open(params.mlflow, project)
    run = store.start_stage("register", store.start_parent("p", params.mlflow, {}), {})
    try:
        tags = part_tags(project / "models", PARTS)
        version = register(log_package(project / "models", PARTS, tags), params.mlflow.model_name, tags)
    finally:
        run.end("FINISHED")
    client = mlflow.MlflowClient(store.uri)
    client.set_registered_model_alias(params.mlflow.model_name, "challenger", version.version)
    arguments = ["evaluate", "--truth", "set/hq", "--inputs", "set/lq", "--model", "models"]
    arguments += ["--model", "models:/codeformer-plus-plus@challenger", "--out", str(tmp_path)]
    try:
        assert main(arguments) == 0
        found = summary(tmp_path)
        assert found["measured"]["challenger"]["sha256"] == found["measured"]["models"]["sha256"]
        assert found["measured"]["challenger"]["origin"].startswith("codeformer-plus-plus version 1")
        assert found["differences"]["challenger-models"]["psnr"]["mean"] == 0
        assert main([*arguments[:-4], "--model", "7", "--out", str(tmp_path)]) == 1
    finally:
        mlflow.set_tracking_uri(None)
        sys.path[:] = path


def test_a_picture_left_out_is_exit_code_1_with_the_rest_measured(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "peer").mkdir()
    for path in Path("set/lq").glob("*.png"):
        (tmp_path / "peer" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "peer/p00001s00.png").write_bytes(b"cut short")
    arguments = ["evaluate", f"peer={tmp_path / 'peer'}", "--truth", "set/hq", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(
        "cfpp evaluate: 1 picture cannot be measured, which costs every restorer 1 face; "
    )
    assert "Left out: p00001s00 of peer" in captured.out
    found = summary(tmp_path / "out")
    assert found["left_out"]["pictures"][0]["stem"] == "p00001s00"
    assert found["about"]["faces"] == PEOPLE * SHOTS - 1
    # names that differ stop it, unless the common ones are asked for, which is then no fault
    (tmp_path / "peer/p00001s00.png").unlink()
    assert main([*arguments[:-1], str(tmp_path / "none")]) == 1
    assert "peer lacks 1: p00001s00; --common measures the 5" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main([*arguments, "--common"]) == 0
    assert summary(tmp_path / "out")["not_common"] == {"truth": ["p00001s00"]}
    assert "Only in truth, not measured: 1, such as p00001s00." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "nothing to measure"),
        (["set/lq"], "expected NAME=FOLDER"),
        (["a b=set/lq"], "a name is letters"),
        (["a=set/lq", "a=set/hq"], "is the name of another column"),
        (["truth=set/lq"], "is the name of another column"),
        (["a=nowhere"], "nowhere: no such folder"),
        (["--model", "models"], "--model restores --inputs"),
        (["--model", "m=99", "--inputs", "set/lq"], "no such model version"),
        (["a=set/lq", "--size", "31"], "must be 32 or more"),
        (["a=set/lq", "--truth", "set/hq", "--people", "x(y)"], "matches no file"),
        (["a=set/lq"], "nothing can be measured without --truth"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cfpp evaluate: ")
    assert reason in error
    assert not (tmp_path / "out").exists()


def test_a_reference_of_another_size_is_an_error_before_anything_is_measured(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real").mkdir()
    for number in range(2):
        face = render(1, number, 0, 2 * SIZE)
        (tmp_path / f"real/{number}.png").write_bytes(encode_png(face.picture))
    arguments = ["evaluate", "a=set/lq", "--truth", "set/hq", "--out", str(tmp_path / "out")]
    arguments += ["--reference", str(tmp_path / "real")]
    assert main(arguments) == 1
    told = (
        f"real: most of its pictures are {2 * SIZE} pixels wide, those to be measured {SIZE}; --size brings"
    )
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--size", "32"]) == 0


def test_a_broken_picture_of_the_reference_costs_no_face(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Means:
        def features(self, pictures: np.ndarray) -> np.ndarray:
            return pictures.mean(axis=(1, 2))

    monkeypatch.setattr("cfpp.commands.evaluate._inception", lambda weights: Means())
    (tmp_path / "real").mkdir()
    for path in Path("set/hq").glob("*.png"):
        (tmp_path / "real" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "real/zoe.png").write_bytes(b"cut short")
    arguments = [
        "evaluate",
        "a=set/lq",
        "--reference",
        str(tmp_path / "real"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 1
    told = "cfpp evaluate: 1 picture cannot be measured, which costs every restorer 0 faces; "
    assert capsys.readouterr().err.splitlines()[-1].startswith(told)
    assert summary(tmp_path / "out")["distributions"]["a"]["reference_n"] == PEOPLE * SHOTS


def test_out_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/deeper"):
        assert main(["evaluate", "a=set/lq", "--truth", "set/hq", "--out", str(tmp_path / out)]) == 1
        assert f"{tmp_path / 'file'} is a file; name a folder" in capsys.readouterr().err


def test_what_is_no_picture_is_named_and_files_left_out_are_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faces").mkdir()
    for number in range(2):
        face = render(1, number, 0, SIZE)
        (tmp_path / f"faces/{number}.png").write_bytes(encode_png(face.picture))
    (tmp_path / "faces/2.gif").write_bytes(b"GIF89a")
    made = tmp_path / "made"
    assert main(["testset", "synthetic", str(tmp_path / "faces"), str(made), "--size", str(SIZE)]) == 0
    told = capsys.readouterr().out
    assert "faces: 2; left out: 0 of 2 files" in told
    assert "Ignored: 1, such as 2.gif" in told
    (made / "lq/2.gif").write_bytes(b"GIF89a")
    assert (
        main(["evaluate", f"p={made / 'lq'}", "--truth", f"{made / 'hq'}", "--out", str(tmp_path / "o")]) == 0
    )
    assert "Ignored in p: 1, such as 2.gif." in capsys.readouterr().out
    (tmp_path / "faces/3.png").write_bytes(b"cut short")
    again = ["testset", "synthetic", str(tmp_path / "faces"), str(tmp_path / "again"), "--size", str(SIZE)]
    assert main(again) == 1
    captured = capsys.readouterr()
    assert "faces: 2; left out: 1 of 3 files" in captured.out
    assert captured.err.splitlines()[-1].startswith("cfpp testset: 1 of 3 files left out; ")


def test_the_results_are_never_written_among_the_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "a=set/lq", "--truth", "set/hq", "--out", "set/hq/../lq"]) == 1
    assert "is a folder of pictures" in capsys.readouterr().err


def test_a_test_set_of_photographs_wants_its_detector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["testset", "align", "clean", str(tmp_path / "out")]) == 1
    assert "cfpp weights fetch" in capsys.readouterr().err
    assert main(["testset", "synthetic", "clean", str(tmp_path / "out"), "--size", "2"]) == 1
    assert "--size: must be 32 or more" in capsys.readouterr().err
    assert main(["testset", "synthetic", "nowhere", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "cfpp testset: nowhere: no such folder\n"

"""Test sets: the pipeline's own degradation, the same bytes again, and every file accounted for."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfpp.config import Params, load_params
from cfpp.data.align import scaled_template
from cfpp.data.pictures import decode, resize_square, save
from cfpp.data.procedural.render import render
from cfpp.evaluation.testsets import TestSetError, align_photographs, make_synthetic
from cfpp.models.face_detector import FaceDetector
from cfpp.synthesis.degraded import degrader

SIZE = 64


@pytest.fixture(scope="module")
def params() -> Params:
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    return replace(params, run=replace(params.run, size=SIZE, seed=5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    for number in range(3):
        save(folder / f"p{number}.png", render(0, number, 0, 128).picture)
    save(folder / "deep/wide.png", np.ascontiguousarray(render(0, 9, 0, 128).picture[10:-10]))
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "notes.txt").write_text("not a face")
    return folder


def synthetic(folder: Path, out: Path, params: Params) -> Path:
    limits, kernel = params.degradation.large, params.degradation.kernel_size
    make_synthetic(folder, out, limits=limits, kernel_size=kernel, seed=params.run.seed, size=SIZE)
    return out


def content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_faces_are_degraded_as_the_pipeline_does(folder: Path, params: Params, tmp_path: Path) -> None:
    out = synthetic(folder, tmp_path / "set", params)
    maker = degrader(params)
    for number in range(3):
        clean = resize_square(render(0, number, 0, 128).picture, SIZE)
        [expected] = maker.degrade(f"p{number}", clean, "test")
        assert (decode((out / f"hq/p{number}.png").read_bytes()) == clean).all()
        assert (decode((out / f"lq/p{number}.png").read_bytes()) == expected.picture).all()


def test_the_same_bytes_again_and_others_for_another_seed(
    folder: Path, params: Params, tmp_path: Path
) -> None:
    first = content(synthetic(folder, tmp_path / "a", params))
    assert content(synthetic(folder, tmp_path / "b", params)) == first
    other = content(synthetic(folder, tmp_path / "c", replace(params, run=replace(params.run, seed=6))))
    same = {name for name in first if other[name] == first[name]}
    assert same == {name for name in first if name.startswith("hq/")}
    # a face more changes no other
    save(folder / "p7.png", render(0, 7, 0, 128).picture)
    more = content(synthetic(folder, tmp_path / "d", params))
    assert {name: more[name] for name in first if name != "testset.json"} == {
        name: digest for name, digest in first.items() if name != "testset.json"
    }


def test_the_facts_account_for_every_file(folder: Path, params: Params, tmp_path: Path) -> None:
    out = synthetic(folder, tmp_path / "set", params)
    facts = json.loads((out / "testset.json").read_text())
    assert facts["counts"] == {"files": 5, "faces": 4, "left_out": 1, "faces_left_out": 0}
    assert list(facts["left_out"]) == ["cut.jpg"]
    assert facts["altered"] == {"deep/wide.png": "central square of 128 x 108 pixels"}
    assert facts["ignored"] == ["notes.txt"]
    assert facts["seed"] == 5
    assert facts["range"]["downsample"] == list(params.degradation.large.downsample)
    digests = content(out)
    for key, face in facts["faces"].items():
        assert face["hq_sha256"] == digests[f"hq/{key}.png"]
        assert face["lq_sha256"] == digests[f"lq/{key}.png"]
        assert 4 <= face["degradation"]["downsample"] <= 30


def test_the_truth_is_no_guess(folder: Path, params: Params, tmp_path: Path) -> None:
    face = Image.fromarray(render(0, 0, 0, 128).picture)
    grey = face.convert("L").crop((0, 0, 128, 100))
    grey.save(folder / "grey.png")
    face.putalpha(128)
    face.save(folder / "half.png")
    deep = np.full((128, 128), 1000, np.uint16)
    deep[4] = 7
    Image.fromarray(deep).save(folder / "deep.png")
    save(folder / "flat.png", np.full((128, 128, 3), 90, np.uint8))
    facts = json.loads((synthetic(folder, tmp_path / "set", params) / "testset.json").read_text())
    assert facts["counts"] == {"files": 9, "faces": 5, "left_out": 4, "faces_left_out": 0}
    assert facts["left_out"]["half.png"].startswith("transparent in places")
    assert facts["left_out"]["deep.png"].startswith("16 bits a channel")
    assert facts["left_out"]["flat.png"] == "one flat colour, no face"
    assert facts["altered"]["grey.png"] == "grey to RGB; central square of 128 x 100 pixels"
    assert {path.stem for path in (tmp_path / "set/hq").iterdir()} == {"p0", "p1", "p2", "wide", "grey"}


def test_a_folder_in_use_and_one_without_faces_are_refused(
    folder: Path, params: Params, tmp_path: Path
) -> None:
    for inside in (folder, folder / "set"):
        with pytest.raises(TestSetError, match=r"lies in .*clean, which is searched"):
            synthetic(folder, inside, params)
    assert not (folder / "set").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(TestSetError, match="is there already"):
        synthetic(folder, tmp_path / "full", params)
    for path in [*folder.glob("*.png"), *folder.glob("deep/*.png")]:
        path.unlink()
    with pytest.raises(TestSetError, match=r"no face of 1 files; cut.jpg: .*testset.json lists all"):
        synthetic(folder, tmp_path / "set", params)
    with pytest.raises(TestSetError, match=r"nowhere: no such folder$"):
        synthetic(tmp_path / "nowhere", tmp_path / "other", params)


class RedCorner:
    """Stands in for the network: knows two faces by where a red mark lies, and none without it."""

    def detect_faces(self, bgr: np.ndarray, confidence: float, overlap: float) -> np.ndarray:
        if tuple(bgr[0, 0]) != (0, 0, 255):  # upright, the mark is at the top left
            return np.zeros((0, 15))
        rows = []
        for left, side in ((10, 40), (60, 120), (200, 8)):
            points = scaled_template(128) * side / 128 + (left, 20)
            rows.append([left, 20, left + side, 20 + side, 0.9, *points.ravel()])
        return np.array(rows)


def test_photographs_are_upright_and_their_faces_in_order(tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    photograph[0, 0] = (255, 0, 0)
    folder = tmp_path / "photos"
    save(folder / "ann/0001.png", photograph)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: show it turned right
    stream = io.BytesIO()
    Image.fromarray(np.rot90(photograph)).save(stream, "PNG", exif=exif)
    (folder / "bob").mkdir()
    (folder / "bob/0001.png").write_bytes(stream.getvalue())
    save(folder / "bob/0002.png", np.full((100, 100, 3), 90, np.uint8))
    (folder / "bob/0003.png").write_bytes(b"")
    cutout = Image.fromarray(photograph)
    cutout.putalpha(0)
    cutout.save(folder / "bob/0004.png")
    (folder / "bob/0005.gif").write_bytes(b"GIF89a")
    detector = FaceDetector(RedCorner(), "red corner")
    made = align_photographs(folder, tmp_path / "out", detector, size=64)
    assert (made.files, made.faces) == (5, 4)
    assert made.left_out == {
        "bob/0002.png": "no face found with a confidence of 0.8 or more",
        "bob/0003.png": "empty file",
        "bob/0004.png": "transparent in places: flatten it on the ground that was meant",
    }
    assert made.faces_left_out == {
        "ann/0001.png, face 2": "under 16 pixels wide or high",
        "bob/0001.png, face 2": "under 16 pixels wide or high",
    }
    assert made.altered == {"bob/0001.png": "turned upright by EXIF"}
    assert made.ignored == ("bob/0005.gif",)
    facts = json.loads((tmp_path / "out/testset.json").read_text())
    assert facts["detector"] == "red corner"
    assert facts["counts"] == {"files": 5, "faces": 4, "left_out": 3, "faces_left_out": 2}
    assert facts["left_out"] == made.left_out
    assert facts["faces_left_out"] == made.faces_left_out
    assert facts["altered"] == made.altered
    by_source: dict[str, list[str]] = {}
    for key, face in facts["faces"].items():
        by_source.setdefault(face["source"], []).append(key)
        assert hashlib.sha256((tmp_path / f"out/{key}.png").read_bytes()).hexdigest() == face["sha256"]
    assert [key[-3:] for key in sorted(by_source["ann/0001.png"])] == ["_00", "_01"]
    first, second = ((tmp_path / f"out/{sorted(keys)[0]}.png").read_bytes() for keys in by_source.values())
    assert first == second  # one stored upright, one by EXIF
    scales = [np.hypot(*np.array(facts["faces"][key]["matrix"])[:, 0]) for key in sorted(facts["faces"])]
    assert scales[0] < scales[1]  # the larger face, hence the smaller scale, comes first


def test_a_file_whose_faces_are_all_too_small_gave_none(tmp_path: Path) -> None:
    class Far:
        def detect_faces(self, bgr: np.ndarray, confidence: float, overlap: float) -> np.ndarray:
            return np.array([[20, 20, 28, 28, 0.9, *(scaled_template(8) + 20).ravel()]])

    save(tmp_path / "photos/far.png", np.zeros((100, 100, 3), np.uint8))
    with pytest.raises(
        TestSetError, match=r"no face of 1 files; far\.png: no face that can be used; face 0: u"
    ):
        align_photographs(tmp_path / "photos", tmp_path / "out", FaceDetector(Far(), "far"))
    facts = json.loads((tmp_path / "out/testset.json").read_text())
    assert facts["counts"] == {"files": 1, "faces": 0, "left_out": 1, "faces_left_out": 1}


def test_archives_give_their_whole_pictures_only(tmp_path: Path) -> None:
    detector = FaceDetector(RedCorner(), "red corner")
    photograph = np.full((200, 300, 3), 90, np.uint8)
    photograph[0, 0] = (255, 0, 0)
    save(tmp_path / "set/cropped_faces/a_00.png", photograph)
    with pytest.raises(TestSetError, match="cropped_faces: these faces are aligned already"):
        align_photographs(tmp_path / "set", tmp_path / "out", detector)
    save(tmp_path / "set/whole_imgs/a.png", photograph)
    assert align_photographs(tmp_path / "set", tmp_path / "out", detector, size=64).faces == 2
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a_00.png", "a_01.png"}

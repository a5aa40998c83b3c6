"""Folders of results: what is read as it is, what is refused by name, and what they have in common."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfpp.data.pictures import PictureError, encode_png
from cfpp.evaluation.folders import FoldersError, PictureFolder, RestoredInputs, match

NOISE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def folder(root: Path, name: str, stems: str, side: int = 24) -> PictureFolder:
    (root / name).mkdir()
    for stem in stems:
        (root / name / f"{stem}.png").write_bytes(encode_png(NOISE[:side, :side]))
    return PictureFolder.open(name, root / name)


def test_a_folder_is_its_pictures_and_says_what_else_it_holds(tmp_path: Path) -> None:
    made = folder(tmp_path, "gfpgan", "ab")
    (tmp_path / "gfpgan/log.txt").write_text("x")
    (tmp_path / "gfpgan/cmp").mkdir()
    (tmp_path / "gfpgan/.DS_Store").write_text("x")
    again = PictureFolder.open("gfpgan", tmp_path / "gfpgan")
    assert again.files == made.files
    assert again.ignored == ("cmp", "log.txt")
    reading = again.read("b")
    assert reading.sha256 == hashlib.sha256((tmp_path / "gfpgan/b.png").read_bytes()).hexdigest()
    (tmp_path / "gfpgan/a.jpg").write_bytes(b"x")
    with pytest.raises(FoldersError, match=r"a\.jpg and a\.png have one stem"):
        PictureFolder.open("gfpgan", tmp_path / "gfpgan")
    with pytest.raises(FoldersError, match="nowhere: no such folder"):
        PictureFolder.open("x", tmp_path / "nowhere")
    (tmp_path / "outer/restored_faces").mkdir(parents=True)
    with pytest.raises(FoldersError, match=r"no pictures .*; it holds restored_faces"):
        PictureFolder.open("x", tmp_path / "outer")


def test_the_usual_side_is_that_of_most(tmp_path: Path) -> None:
    made = folder(tmp_path, "a", "pqr")
    (tmp_path / "a/p.png").write_bytes(encode_png(NOISE[:8, :8]))
    (tmp_path / "a/s.png").write_bytes(b"damaged")
    made = PictureFolder.open("a", tmp_path / "a")
    assert made.usual_side(["p", "q", "r", "s"]) == 24
    assert made.usual_side(["p"]) == 8
    assert made.usual_side(["s"]) is None


def test_sizes_are_never_changed_unasked(tmp_path: Path) -> None:
    made = folder(tmp_path, "a", "p")
    with pytest.raises(PictureError, match=r"24 x 24 pixels, expected 12 x 12; --size resizes all"):
        made.read("p").fitted(12, resize=False)
    halved = made.read("p").fitted(12, resize=True)
    means = NOISE.reshape(12, 2, 12, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved.picture - means).max() <= 0.51
    assert halved.altered == "resized from 24 pixels"
    (tmp_path / "a/p.png").write_bytes(encode_png(NOISE[:20]))
    with pytest.raises(PictureError, match="24 x 20 pixels: not square"):
        made.read("p").fitted(12, resize=True)


def test_names_that_differ_are_counted_on_either_side(tmp_path: Path) -> None:
    truth, other = folder(tmp_path, "truth", "abcdefgh"), folder(tmp_path, "other", "ghi")
    message = r"of 9 names, truth lacks 1: i; other lacks 6: a, b, c \.\.\.; --common measures the 2"
    with pytest.raises(FoldersError, match=message):
        match([truth, other], common=False)
    found = match([truth, other], common=True)
    assert found.stems == ("g", "h")
    assert found.surplus == {"truth": tuple("abcdef"), "other": ("i",)}
    apart = folder(tmp_path, "apart", "z")
    with pytest.raises(FoldersError, match="no name is common"):
        match([truth, apart], common=True)
    assert match([truth, truth], common=False).surplus == {}


def test_a_model_restores_its_inputs_one_by_one(tmp_path: Path) -> None:
    inputs = folder(tmp_path, "lq", "ab")

    def brighten(pictures: np.ndarray) -> np.ndarray:
        assert pictures.shape == (1, 24, 24, 3)
        return pictures // 2 + 100

    model = RestoredInputs("ours", "models", inputs, brighten)
    reading = model.read("a")
    np.testing.assert_array_equal(reading.picture, NOISE // 2 + 100)
    assert reading.sha256 == hashlib.sha256(encode_png(NOISE // 2 + 100)).hexdigest()
    assert reading.altered == ""
    assert model.usual_side(["a", "b"]) == 24
    (tmp_path / "lq/b.png").write_bytes(encode_png(NOISE[:20]))
    with pytest.raises(PictureError, match="its input: 24 x 20 pixels: not square"):
        model.read("b")
    Image.fromarray(NOISE).convert("RGBA").save(tmp_path / "lq/b.png")
    assert model.read("b").altered == "input: opaque alpha dropped"
    cutout = Image.fromarray(NOISE)
    cutout.putalpha(3)
    cutout.save(tmp_path / "lq/b.png")
    with pytest.raises(PictureError, match="its input: transparent"):
        model.read("b")


def test_a_model_that_resizes_its_inputs_says_so(tmp_path: Path) -> None:
    folder(tmp_path, "lq", "a")
    (tmp_path / "lq/2.gif").write_bytes(b"GIF89a")
    inputs = PictureFolder.open("input", tmp_path / "lq")
    model = RestoredInputs("ours", "models", inputs, lambda pictures: pictures.repeat(2, 1).repeat(2, 2))
    reading = model.read("a")
    assert reading.altered == "input resized from 24 to 48 pixels"
    assert reading.fitted(48, resize=False).altered == "input resized from 24 to 48 pixels"
    assert model.ignored == ("2.gif",)

"""Whatever lies in a folder is used, quarantined with a reason, or counted as ignored."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cfpp.config import Params, load_params
from cfpp.data.folder import FolderError, list_faces, load_face
from cfpp.data.manifest import AccountingError, Manifest, check_quarantine
from cfpp.data.pictures import PictureError, decode
from cfpp.data.shards import KEY_PATTERN, DataError, read_shard
from cfpp.synthesis.faces import FaceSpec, FaceTask, FaceWorker, face_spec, list_source, plan_faces
from cfpp.synthesis.shard_work import ShardOutcome, make_shard
from tests.data.picture_makers import colours, png_header

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def fill(folder: Path) -> dict[str, str | None]:
    """A folder with everything that goes wrong; relative path to reason, None = used."""
    face = Image.fromarray(colours(96))
    (folder / "a").mkdir(parents=True)
    (folder / "b c").mkdir()
    face.save(folder / "a/one.jpg", quality=95)
    face.save(folder / "b c/one.jpg", quality=95)
    face.save(folder / "a/one.png")
    face.save(folder / "name.with dots.v2.PNG")
    face.save(folder / "Zoë Ünal 佳.png")
    face.convert("L").save(folder / "grey.png")
    face.convert("CMYK").save(folder / "cmyk.jpg")
    face.convert("RGBA").save(folder / "alpha.png")
    cv2.imwrite(str(folder / "deep.png"), colours(96).astype(np.uint16) * 257)
    face.resize((30, 30)).save(folder / "tiny.png")
    face.save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not a picture at all")
    (folder / "huge.png").write_bytes(png_header(20_000, 20_000))
    (folder / "broken_link.png").symlink_to(folder / "nowhere.png")
    (folder / "README.md").write_text("about these faces")
    (folder / "list.csv").write_text("a,b")
    bad = {
        "tiny.png": "too small",
        "cut.jpg": "truncated",
        "zero.jpg": "empty",
        "text.png": "not a picture",
        "huge.png": "too large",
        "broken_link.png": "cannot be read: No such file",
    }
    pictures = [
        p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.suffix not in (".md", ".csv")
    ]
    return {path: bad.get(path) for path in pictures}


def ingest(folder: Path, out: Path) -> ShardOutcome:
    faces = tuple(sorted(list_faces(folder).faces))
    worker = FaceWorker(FaceSpec(str(folder), "", 64, 0, 64, 100_000_000))
    return make_shard(FaceTask("train", 0, "in", faces), worker, out, "config")


def test_every_file_is_used_or_refused_with_its_reason(tmp_path: Path) -> None:
    expected = fill(tmp_path / "faces")
    listing = list_faces(tmp_path / "faces")
    assert {face.source for face in listing.faces} == set(expected)
    assert listing.ignored == ("README.md", "list.csv")
    assert all(KEY_PATTERN.fullmatch(face.key) for face in listing.faces)
    assert len({face.key for face in listing.faces}) == len(expected)

    outcome = ingest(tmp_path / "faces", tmp_path / "out")
    refused = {row.source: row.reason for row in outcome.refused}
    assert set(refused) == {path for path, reason in expected.items() if reason}
    for path, reason in refused.items():
        assert expected[path] in reason, (path, reason)
    samples = dict(read_shard(tmp_path / "out/train/00000.tar", outcome.row.sha256))
    used = {json.loads(members["meta.json"])["source"]: members["hq.png"] for members in samples.values()}
    assert set(used) == {path for path, reason in expected.items() if not reason}
    for path, data in used.items():
        picture = decode(data)
        assert picture.shape == (64, 64, 3)
        plain = cv2.resize(colours(96), (64, 64), interpolation=cv2.INTER_AREA).astype(float)
        if path == "grey.png":
            plain = np.repeat((plain @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
        if path == "deep.png":
            plain = plain[..., ::-1]  # cv2 was given RGB and wrote BGR
        # JPEG's chroma subsampling costs a few levels; a swapped channel or clipped depth, dozens.
        assert np.abs(picture - plain).mean() < 6, path


def test_keys_do_not_depend_on_later_files(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    fill(folder)
    before = {face.source: face.key for face in list_faces(folder).faces}
    Image.fromarray(colours(96)).save(folder / "0 first.png")
    after = {face.source: face.key for face in list_faces(folder).faces}
    assert {source: after[source] for source in before} == before
    assert before["grey.png"] == "grey"
    assert re.fullmatch(r"one-[0-9a-f]{10}", before["a/one.jpg"])


def test_names_that_differ_only_in_case_get_distinct_keys(tmp_path: Path) -> None:
    for name in ("a.png", "A.jpg", "ä.png", "a .png"):
        (tmp_path / name).touch()
    keys = [face.key.lower() for face in list_faces(tmp_path).faces]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("names", "reason"),
    [([], "it is empty"), (["README.md"], "only 1 other files, such as README.md")],
)
def test_a_folder_without_pictures_says_why(tmp_path: Path, names: list[str], reason: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(FolderError, match=reason):
        list_faces(tmp_path)


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no such folder"):
        list_faces(tmp_path / "nowhere")


def test_a_name_that_is_not_utf8_is_used_like_any_other(tmp_path: Path) -> None:
    latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Jos\xe9.png"))
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(latin)
    (face,) = list_faces(tmp_path).faces
    assert face.source == r"Jos\xe9.png"
    face.source.encode("utf-8")
    assert face.key.isascii()
    assert load_face(tmp_path, face.source, size=64, min_side=1, max_pixels=10**6).shape == (64, 64, 3)


def test_a_subfolder_that_cannot_be_listed_is_an_error_not_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:  # root may list everything, so the mode of the folder would not do
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(FolderError, match=r"closed: cannot be listed: Permission denied"):
        list_faces(tmp_path)


def test_a_flat_picture_is_no_face(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (10, 20, 30)).save(tmp_path / "flat.png")
    with pytest.raises(PictureError, match="flat"):
        load_face(tmp_path, "flat.png", size=64, min_side=1, max_pixels=10**6)


def test_linked_folders_are_counted_not_lost(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/a.png").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "faces/link").symlink_to(tmp_path / "elsewhere")
    assert list_faces(tmp_path / "faces").ignored == ("link",)


def test_identities_come_from_the_pattern(tmp_path: Path) -> None:
    for name in ("ann_1.png", "ann_2.png", "bob_1.png", "nobody.png"):
        (tmp_path / name).touch()
    faces = {face.key: face.identity for face in list_faces(tmp_path, r"^([a-z]+)_\d").faces}
    assert faces == {"ann_1": "ann", "ann_2": "ann", "bob_1": "bob", "nobody": "nobody"}
    for pattern, reason in {"(": "not a regular", "ann": "no group", "(xyz)": "matches no file"}.items():
        with pytest.raises(FolderError, match=reason):
            list_faces(tmp_path, pattern)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1, max_size=20)))
def test_any_names_give_unique_safe_keys(tmp_path_factory: pytest.TempPathFactory, stems: set[str]) -> None:
    folder = tmp_path_factory.mktemp("names")
    (folder / "always.png").touch()
    for stem in stems:
        (folder / f"x{stem}.png").touch()
    listing = list_faces(folder)
    assert len(listing.faces) == len(list(folder.iterdir()))
    assert len({face.key.lower() for face in listing.faces}) == len(listing.faces)
    assert all(KEY_PATTERN.fullmatch(face.key) for face in listing.faces)


def test_too_many_refusals_fail_and_name_the_files(tmp_path: Path) -> None:
    fill(tmp_path / "faces")
    outcome = ingest(tmp_path / "faces", tmp_path / "out")
    manifest = Manifest()
    manifest.put(outcome.row, outcome.refused)
    share = outcome.row.quarantined / (outcome.row.quarantined + outcome.row.count)
    check_quarantine(manifest, share)
    with pytest.raises(AccountingError, match=r"cut\.jpg: damaged or truncated"):
        check_quarantine(manifest, share - 0.01)


def test_changed_bytes_under_the_same_name_make_their_shard_stale(tmp_path: Path) -> None:
    for number in range(60):
        Image.fromarray(colours(64)).save(tmp_path / f"f{number:02d}.png")
    params = load_params(PARAMS)
    data = replace(params.data, source="folder", folder=str(tmp_path), shard_size=5)
    params = replace(params, data=data)
    before = {(t.split, t.shard): t.input_sha256 for t in plan_faces(params, list_faces(tmp_path))}
    Image.fromarray(255 - colours(64)).save(tmp_path / "f07.png")
    after = {(t.split, t.shard): t.input_sha256 for t in plan_faces(params, list_faces(tmp_path))}
    changed = [place for place in before if before[place] != after[place]]
    assert set(before) == set(after)
    assert len(changed) == 1


def of_two_folders(tmp_path: Path, pattern: str = "") -> Params:
    params = load_params(PARAMS)
    data = replace(
        params.data,
        source="folder",
        folder=str(tmp_path / "learnt"),
        test_folder=str(tmp_path / "tested"),
        identity_pattern=pattern,
        test_fraction=0.0,
        val_fraction=0.2,
        shard_size=5,
    )
    return replace(params, data=data)


def test_a_test_folder_is_the_test_split_whatever_its_files_are_called(tmp_path: Path) -> None:
    for folder, numbers in (("learnt", range(40)), ("tested", range(7))):
        (tmp_path / folder).mkdir()
        for number in numbers:
            Image.fromarray(np.roll(colours(64), number + (folder == "tested") * 40, axis=0)).save(
                tmp_path / folder / f"{number:05d}.png"
            )
    params = of_two_folders(tmp_path)
    tasks = plan_faces(params, list_source(params.data))
    tested = [face for task in tasks if task.split == "test" for face in task.faces]
    assert [face.key for face in tested] == [f"test-{number:05d}" for number in range(7)]
    assert sum(len(task.faces) for task in tasks) == 47

    task = next(task for task in tasks if task.split == "test")
    outcome = make_shard(task, face_spec(params).build(), tmp_path / "out", "config")
    members = dict(read_shard(tmp_path / "out/test/00000.tar", outcome.row.sha256))
    for number in range(len(task.faces)):
        made = decode(members[f"test-{number:05d}"]["hq.png"])
        wanted = np.roll(colours(64), number + 40, axis=0)
        enlarged = cv2.resize(wanted, made.shape[:2], interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(made, enlarged)


@pytest.mark.parametrize("pattern", ["", "^(.)"])
def test_a_face_or_person_of_both_folders_is_refused(tmp_path: Path, pattern: str) -> None:
    for folder in ("learnt", "tested"):
        (tmp_path / folder).mkdir()
        for number in range(10):
            turned = np.roll(colours(64), number + (50 if folder == "tested" and pattern else 0), axis=0)
            Image.fromarray(turned).save(tmp_path / folder / f"{number}{folder}.png")
    params = of_two_folders(tmp_path, pattern)
    found = (
        "0 is in data.folder and in data.test_folder" if pattern else "0tested.png of data.test_folder is 0"
    )
    with pytest.raises(DataError, match=found):
        plan_faces(params, list_source(params.data))

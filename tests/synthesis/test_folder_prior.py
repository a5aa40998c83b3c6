"""Another prior's pictures: used where they fit, and accounted for where they do not."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cfpp.config import Params, ParamsError, load_params, parse_params, to_dict
from cfpp.data.manifest import Manifest
from cfpp.data.pictures import Picture, encode_png
from cfpp.data.samples import SampleStore
from cfpp.data.shards import DataError
from cfpp.synthesis.degraded import degrader
from cfpp.synthesis.folder_prior import FolderPlan, count_faults, folder_spec, plan_folder
from cfpp.synthesis.shard_work import make_shard
from pipelines.synthesize import synthesize
from tests.tiny_shards import write_stage

SIZE = 64
KEYS = {"train": ["a", "b", "c"], "test": ["d"]}
NAMES = [f"{key}.{variant}" for key in KEYS["train"] for variant in range(2)] + ["d.0"]


@pytest.fixture
def params() -> Params:
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    return replace(
        params, run=replace(params.run, size=SIZE), synthesize=replace(params.synthesize, variants=2)
    )


def picture(name: str, column: str) -> Picture:
    return np.random.default_rng([*name.encode(), *column.encode()]).integers(
        0, 256, (SIZE, SIZE, 3), dtype=np.uint8
    )


@pytest.fixture
def project(tmp_path: Path, params: Params) -> Path:
    """Clean faces, and a folder of I_F (png) and of I_G (png and webp) that fit them."""
    meta = json.dumps({"identity": "x", "source": "x"}).encode()
    faces = {
        split: [(key, {"hq.png": encode_png(picture(key, "hq")), "meta.json": meta}) for key in keys]
        for split, keys in KEYS.items()
    }
    write_stage(tmp_path / "data/shards", faces)
    for column in ("id", "gp"):
        (tmp_path / column).mkdir()
        for name in NAMES:
            (tmp_path / column / f"{name}.png").write_bytes(encode_png(picture(name, column)))
    (tmp_path / "lq").mkdir()
    for split, keys in KEYS.items():
        for item in [i for key in keys for i in degrader(params).degrade(key, picture(key, "hq"), split)]:
            (tmp_path / "lq" / f"{item.name}.png").write_bytes(encode_png(item.picture))
    return tmp_path


def plan(project: Path, params: Params) -> FolderPlan:
    folders = {column: project / column for column in ("lq", "id", "gp")}
    return plan_folder(project / "data/shards", folders, degrader(params))


def make(project: Path, params: Params) -> Manifest:
    manifest = Manifest()
    for task in plan(project, params).tasks:
        outcome = make_shard(task, folder_spec(params).build(), project / "data/restored", "hash")
        manifest.put(outcome.row, outcome.refused)
    manifest.save(project / "data/restored")
    return manifest


def test_pictures_reach_the_shards_as_they_are(project: Path, params: Params) -> None:
    assert make(project, params).refused() == []
    for split, keys in KEYS.items():
        store = SampleStore(project, split, ["hq", "lq", "id", "gp"])
        assert len(store) == len(keys) * (2 if split == "train" else 1)
        for index, (key, variant) in enumerate(store.items):
            found = store.pictures(index)
            for column in ("id", "gp"):
                assert (found[column] == picture(f"{key}.{variant}", column)).all()
            expected = degrader(params).degrade(key, found["hq"], split)[variant]
            assert (found["lq"] == expected.picture).all()
            assert store[index].meta["draw"]["jpeg"] == expected.drawn.jpeg
    facts = plan(project, params).facts
    assert facts == {
        f"{column}_{what}": count
        for column in ("lq", "id", "gp")
        for what, count in (("asked", 7), ("found", 7), ("missing", 0), ("surplus", 0))
    }


def small(path: Path) -> None:
    path.write_bytes(encode_png(np.zeros((32, 48, 3), np.uint8)))


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "reason", "fault"),
    [
        (Path.unlink, r"missing", None),
        (dangling, r"missing", None),
        (folder, r"missing", None),
        (small, r"wrong-sized \(48 x 32 pixels, expected 64 x 64\)", "gp_wrong_sized"),
        (lambda path: path.write_bytes(b""), r"unreadable \(empty file\)", "gp_unreadable"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:300]),
            r"unreadable \(.*truncated",
            "gp_unreadable",
        ),
    ],
)
def test_a_picture_at_fault_costs_its_face_and_no_other(
    project: Path, params: Params, harm: Callable[[Path], None], reason: str, fault: str | None
) -> None:
    harm(project / "gp" / "b.1.png")
    manifest = make(project, params)
    [refused] = manifest.refused()
    assert (refused.key, refused.source) == ("b", "train/00000.tar")
    assert re.search(r"I_G of b\.1 is " + reason, refused.reason), refused.reason
    counts = count_faults(manifest.refused())
    assert [name for name, count in counts.items() if count] == ([fault] if fault else [])
    assert sum(counts.values()) == (1 if fault else 0)
    assert plan(project, params).facts["gp_missing"] == (0 if fault else 1)
    assert {row.split: row.count for row in manifest.shards.values()} == {"train": 2, "test": 1}


def test_every_picture_at_fault_is_named_and_counted(project: Path, params: Params) -> None:
    (project / "id" / "b.0.png").unlink()
    small(project / "gp" / "b.1.png")
    small(project / "gp" / "c.0.png")
    manifest = make(project, params)
    reasons = {row.key: row.reason for row in manifest.refused()}
    assert "I_F of b.0 is missing; I_G of b.1 is wrong-sized" in reasons["b"]
    assert set(reasons) == {"b", "c"}
    counts = count_faults(manifest.refused())
    assert {name: count for name, count in counts.items() if count} == {"gp_wrong_sized": 2}
    assert plan(project, params).facts["id_missing"] == 1


def test_a_picture_rounded_otherwise_is_not_stale(project: Path, params: Params) -> None:
    for path in (project / "lq").iterdir():
        shifted = np.asarray(cv2.imread(str(path)), np.int16)
        shifted[::3] += 1
        cv2.imwrite(str(path), shifted.clip(0, 255).astype(np.uint8))
    assert make(project, params).refused() == []


def test_pictures_of_faces_degraded_otherwise_are_stale(project: Path, params: Params) -> None:
    assert make(project, params).refused() == []
    other = replace(params, run=replace(params.run, seed=params.run.seed + 1))
    refused = make(project, other).refused()
    assert {row.key for row in refused} == {"a", "b", "c", "d"}
    assert all("I_LQ" in row.reason and "is stale" in row.reason for row in refused)
    assert count_faults(refused)["lq_stale"] == 7


def test_missing_and_surplus_pictures_are_counted(
    project: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    (project / "id" / "a.0.png").unlink()
    for name in ("stranger.0.png", "d.1.png"):  # held-out faces have one variant
        (project / "id" / name).write_bytes(b"not even read")
    (project / "id" / "notes.txt").write_text("no picture")
    facts = plan(project, params).facts
    assert {k: v for k, v in facts.items() if k.startswith("id")} == {
        "id_asked": 7,
        "id_found": 6,
        "id_missing": 1,
        "id_surplus": 2,
    }
    assert "2 of no known face: ['d.1', 'stranger.0']" in caplog.text


def test_other_formats_are_read_and_two_of_one_name_refused(project: Path, params: Params) -> None:
    (project / "gp" / "a.0.png").unlink()
    done, data = cv2.imencode(".webp", picture("a.0", "gp"), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done
    (project / "gp" / "a.0.webp").write_bytes(bytes(data))
    assert make(project, params).refused() == []
    (project / "gp" / "a.0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.0\.webp and a\.0\.png are the same picture"):
        plan(project, params)


def test_changed_pictures_make_their_shard_stale_and_no_other(project: Path, params: Params) -> None:
    before = {(task.split, task.shard): task.input_sha256 for task in plan(project, params).tasks}
    (project / "id" / "d.0.png").write_bytes(encode_png(picture("other", "id")))
    after = {(task.split, task.shard): task.input_sha256 for task in plan(project, params).tasks}
    assert {place for place in before if before[place] != after[place]} == {("test", 0)}


def test_a_restorers_pictures_are_not_called_controlled_and_a_study_s_are(
    project: Path, params: Params
) -> None:
    def inputs() -> set[str]:
        return {task.input_sha256 for task in plan(project, params).tasks}

    def marks() -> list[bool]:
        make(project, params)
        stores = [SampleStore(project, split, ["id"]) for split in KEYS]
        return [
            store[place].meta["draw"].get("controlled") for store in stores for place in range(len(store))
        ]

    assert not plan(project, params).controlled
    assert marks() == [None] * 7
    before = inputs()
    (project / "study.json").write_text('{"study": "another"}')
    assert not plan(project, params).controlled
    (project / "study.json").write_text('{"study": "controlled"}')
    assert plan(project, params).controlled
    assert marks() == [True] * 7
    # shards made without the mark do not hold
    assert before.isdisjoint(inputs())
    # pictures of the study for one of the columns are enough
    folders = {column: project / column for column in ("lq", "id", "gp")}
    (project / "elsewhere").mkdir()
    for column in ("lq", "id"):
        folders[column] = (project / column).rename(project / "elsewhere" / column)
    assert plan_folder(project / "data/shards", folders, degrader(params)).controlled


@pytest.mark.parametrize("study", [None, "controlled"])
def test_the_stage_s_report_says_what_the_pictures_are(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, study: str | None
) -> None:
    if study:
        (project / "study.json").write_text(json.dumps({"study": study}))
    monkeypatch.setattr(
        "pipelines.synthesize.process_shards", lambda *_, **__: SimpleNamespace(manifest=Manifest())
    )
    prior = replace(params.prior, kind="folder", lq_folder="lq", id_folder="id", gp_folder="gp")
    session = SimpleNamespace(params=replace(params, prior=prior), root=project, storage=project)
    _, facts = synthesize(session)  # type: ignore[arg-type]
    assert facts.get("study") == study
    assert facts["id_found"] == 7


def test_folders_that_cannot_be_meant_are_refused(project: Path, params: Params) -> None:
    for path in (project / "gp").iterdir():
        path.rename(path.with_name("restored_" + path.name))
    with pytest.raises(DataError, match=r"gp: none of its 7 pictures .* expected a\.0\.png"):
        plan(project, params)
    folders = {"lq": project / "lq", "id": project / "id", "gp": project / "nowhere"}
    with pytest.raises(DataError, match=r"prior\.gp_folder must hold I_G"):
        plan_folder(project / "data/shards", folders, degrader(params))
    tree = to_dict(params)
    tree["prior"] |= {"kind": "folder", "lq_folder": "w", "id_folder": "x"}
    with pytest.raises(ParamsError, match=r"prior\.gp_folder"):
        parse_params(tree)

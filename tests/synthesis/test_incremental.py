"""New faces and withdrawn ones: three stages in a row do what has changed, and end as if started afresh."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cfpp.config import Params, ResourceParams, load_params
from cfpp.data.manifest import Manifest
from cfpp.data.procedural.render import render
from cfpp.data.shards import shard_name
from cfpp.storage import Place
from cfpp.synthesis import shards_job
from cfpp.synthesis.faces import face_config_hash, face_spec, list_source, plan_faces
from cfpp.synthesis.pairs import pair_config_hash, pair_spec
from cfpp.synthesis.restored import restored_config_hash, restored_spec
from cfpp.synthesis.shard_work import ShardOutcome, ShardTask, WorkerSpec, make_shard
from cfpp.synthesis.shards_job import JobReport, process_shards
from cfpp.synthesis.tars import plan_from
from tests.tiny_models import SIZE, write_models

REPOSITORY = Path(__file__).resolve().parents[2]
FACES = 60


@pytest.fixture
def params(tmp_path: Path) -> Params:
    params = load_params(REPOSITORY / "params.yaml")
    data = replace(
        params.data,
        source="folder",
        folder=str(tmp_path / "faces"),
        shard_size=5,
        min_side=16,
        val_fraction=0.1,
        test_fraction=0.1,
    )
    return replace(
        params,
        run=replace(params.run, size=SIZE),
        data=data,
        synthesize=replace(params.synthesize, variants=1),
    )


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done, not where, is of interest here."""

    def one_by_one(
        todo: Sequence[ShardTask],
        spec: WorkerSpec,
        folder: Place,
        config_hash: str,
        resources: ResourceParams,
    ) -> Iterator[ShardOutcome]:
        worker = spec.build()
        yield from (make_shard(task, worker, folder, config_hash) for task in todo)

    monkeypatch.setattr(shards_job, "on_ray", one_by_one)


def add_faces(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        picture = render(0, 1, 0, SIZE).picture.copy()
        picture[0, 0] = number % 256  # every file its own content
        Image.fromarray(picture).save(folder / f"f{number:04d}.png")


def run(params: Params, root: Path, models: Path) -> list[JobReport]:
    """The stages shard, synthesize and pair."""
    resources = params.data.resources
    shards, restored, pairs = (root / "data" / name for name in ("shards", "restored", "pairs"))
    faces = plan_faces(params, list_source(params.data))
    first = process_shards(
        faces, face_spec(params), shards, config_hash=face_config_hash(params), resources=resources
    )
    second = process_shards(
        plan_from(shards),
        restored_spec(params, models / "prior"),
        restored,
        config_hash=restored_config_hash(params, models / "prior"),
        resources=resources,
    )
    third = process_shards(
        plan_from(restored),
        pair_spec(params, models / "dam"),
        pairs,
        config_hash=pair_config_hash(params, models / "dam"),
        resources=resources,
    )
    return [first, second, third]


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in (root / "data").rglob("*") if p.is_file()}


def test_ten_percent_more_faces_cost_little_more_than_their_own_shards(
    params: Params, tmp_path: Path
) -> None:
    models, folder = write_models(tmp_path / "models"), Path(params.data.folder)
    add_faces(folder, range(FACES))
    before = run(params, tmp_path / "grown", models)
    assert all(report.skipped == 0 for report in before)
    add_faces(folder, range(FACES, FACES + FACES // 10))
    for report in run(params, tmp_path / "grown", models):
        assert report.done > 0
        assert (
            report.faces <= FACES // 10 + 3 * 2 * 5
        )  # the new faces, and what shared the last shard of each split
        assert report.skipped + report.done == len(report.manifest.shards)
        assert report.skipped >= len(before[0].manifest.shards) - 3
    run(params, tmp_path / "afresh", models)
    assert content(tmp_path / "grown") == content(tmp_path / "afresh")


def test_a_face_in_between_changes_its_shard_and_renames_those_behind_it(
    params: Params, tmp_path: Path
) -> None:
    models, folder = write_models(tmp_path / "models"), Path(params.data.folder)
    add_faces(folder, range(0, 2 * FACES, 2))
    run(params, tmp_path / "grown", models)
    places = {
        (row.split, row.sha256): row.shard
        for row in Manifest.load(tmp_path / "grown/data/pairs").shards.values()
    }
    add_faces(folder, range(21, 61, 2))  # enough to make shards of their own, and to move others up
    done = [report.done for report in run(params, tmp_path / "grown", models)]
    rows = Manifest.load(tmp_path / "grown/data/pairs").shards.values()
    moved = [row for row in rows if places.get((row.split, row.sha256), row.shard) != row.shard]
    assert moved
    assert max(done) < len(rows) / 2
    run(params, tmp_path / "afresh", models)
    assert content(tmp_path / "grown") == content(tmp_path / "afresh")

    for number in range(21, 61, 2):  # and down again
        (folder / f"f{number:04d}.png").unlink()
    run(params, tmp_path / "grown", models)
    rows = Manifest.load(tmp_path / "grown/data/pairs").shards.values()
    assert {(row.split, row.sha256): row.shard for row in rows} == places


def test_a_withdrawn_face_is_gone_from_every_stage(params: Params, tmp_path: Path) -> None:
    models, folder = write_models(tmp_path / "models"), Path(params.data.folder)
    add_faces(folder, range(FACES))
    run(params, tmp_path, models)
    assert any(b"f0042" in data for data in content(tmp_path).values())
    (folder / "f0042.png").unlink()
    for report in run(params, tmp_path, models):
        assert 1 <= report.done <= 3
    assert not any(b"f0042" in data for data in content(tmp_path).values())


def test_a_kill_between_two_renames_costs_a_shard_and_never_a_wrong_one(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfpp.synthesis import settle

    models, folder = write_models(tmp_path / "models"), Path(params.data.folder)
    add_faces(folder, range(0, 2 * FACES, 2))
    run(params, tmp_path / "grown", models)
    add_faces(folder, range(21, 61, 2))
    real, calls = settle.move, []

    def dying(source: Place, target: Place) -> None:
        calls.append(source.name)
        if len(calls) == 2:
            real(source, target)
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(settle, "move", dying)
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path / "grown", models)
    monkeypatch.setattr(settle, "move", real)
    assert shard_name(0) not in calls[:1]
    run(params, tmp_path / "grown", models)
    run(params, tmp_path / "afresh", models)
    assert content(tmp_path / "grown") == content(tmp_path / "afresh")

"""What the params ask of a machine, against machines that have it and such that do not."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cfpp.health import demands
from cfpp.health.finding import Level
from tests.health.altered import params_with

GIB = 1 << 30


def test_cores_that_ray_would_wait_for_are_a_problem_and_too_many_threads_a_warning() -> None:
    assert demands.check_cores(params_with(), 2).level is Level.OK
    assert demands.check_cores(params_with(), 1).level is Level.WARNING
    assert "2 threads" in demands.check_cores(params_with(), 1).message
    waits = demands.check_cores(params_with(pair__resources__min_actors=5, pair__resources__max_actors=5), 4)
    assert waits.level is Level.PROBLEM
    assert "pair.resources: 5 actors of 1 cores" in waits.message
    waits = demands.check_cores(params_with(train_dam__train__workers=4, train_dam__train__threads=1), 2)
    assert waits.level is Level.PROBLEM
    assert "train_dam.train.workers: 4" in waits.message
    # a prior that is not trained asks for nothing
    idle = params_with(prior__fusion__train__workers=4)
    assert demands.check_cores(idle, 2).level is Level.OK
    idle = params_with(prior__fusion__train__workers=4, prior__source="train")
    assert demands.check_cores(idle, 2).level is Level.PROBLEM


def test_memory_that_actors_set_aside_or_that_is_used_up() -> None:
    assert demands.check_memory(params_with(), 16 * GIB, 8 * GIB).level is Level.OK
    assert demands.check_memory(params_with(), 16 * GIB, GIB).level is Level.WARNING
    large = params_with(synthesize__resources__memory_gb=20)
    found = demands.check_memory(large, 16 * GIB, 8 * GIB)
    assert found.level is Level.PROBLEM
    assert "synthesize.resources" in found.message


def test_dockers_shared_memory_is_too_small_for_ray_and_for_loader_processes() -> None:
    assert demands.check_shared_memory(params_with(), 4 * GIB).level is Level.OK
    assert demands.check_shared_memory(params_with(), None).level is Level.OK
    found = demands.check_shared_memory(params_with(), 64 << 20)
    assert found.level is Level.WARNING
    assert "--shm-size" in found.remedy
    reading = params_with(train_tgrn__train__loader_workers=4)
    # 4 processes, 3 batches of 8 faces each, 6 pictures of 3 x 128 x 128 float32
    need = 4 * 3 * 8 * 6 * 3 * 128 * 128 * 4
    assert demands.check_shared_memory(reading, need - 1).level is Level.PROBLEM
    assert demands.check_shared_memory(reading, need + 1).level is Level.WARNING


def test_room_on_the_disk(tmp_path: Path) -> None:
    findings = list(demands.check_disk(params_with(), tmp_path / "not/yet", 480))
    assert {finding.subject for finding in findings} >= {"disk, project", "disk, temporary files"}
    assert demands.check_room("project", tmp_path, 0, "").level is not Level.PROBLEM
    full = demands.check_room("project", tmp_path / "not/yet", 1 << 60, "move it")
    assert full.level is Level.PROBLEM
    assert full.remedy == "make room, or move it"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_each_full_place_is_told_what_moves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands.shutil, "disk_usage", lambda path: SimpleNamespace(total=9, used=9, free=0))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[cache]\n    dir = /dev/shm/no-such-cache\n")
    found = {finding.subject: finding for finding in demands.check_disk(params_with(), tmp_path, 480)}
    assert "/dev/shm/no-such-cache" in found["disk, DVC cache"].message
    for place, mover in (
        ("project", "storage.root"),
        ("DVC cache", "`dvc cache dir`"),
        ("temporary files", "TMPDIR"),
    ):
        finding = found[f"disk, {place}"]
        assert finding.level is Level.PROBLEM
        assert mover in finding.remedy
        assert ("storage.root" in finding.remedy) == (place == "project")


def test_the_data_of_the_embedded_demo_take_what_was_measured() -> None:
    # 480 faces, of which 376 have two variants: 134 MB in all after `make repro`
    assert 0.8 < demands.data_bytes(params_with(), 480) / 134.5e6 < 1.25


def test_keys_that_ask_for_a_gpu_are_named() -> None:
    assert demands.gpu_keys(params_with()) == []
    asking = params_with(train_dam__train__use_gpu=True, pair__resources__gpus=0.5)
    assert demands.gpu_keys(asking) == ["train_dam.train.use_gpu", "pair.resources.gpus"]

"""The runner on a real local Ray: resumes by shard, gives the same bytes at any width, loses nothing."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpp.config import ResourceParams
from cfpp.data.manifest import AccountingError, Manifest, shard_path
from cfpp.data.shards import DataError, ShardError, read_shard
from cfpp.synthesis import shards_job
from cfpp.synthesis.shard_work import Made, Refused, ShardOutcome, ShardTask, make_shard
from cfpp.synthesis.shards_job import JobReport, process_shards


@dataclass(frozen=True)
class WordTask(ShardTask):
    """Keys, and what is to happen to them."""

    planned: tuple[str, ...]
    bad: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    dies_once: str = ""
    damaged: bool = False
    megabytes: int = 0


@dataclass(frozen=True)
class WordSpec:
    """Writes each key's own name; notes each shard it makes in a log."""

    log: str

    def build(self) -> "WordWorker":
        return WordWorker(self)


class WordWorker:
    def __init__(self, spec: WordSpec) -> None:
        self.spec = spec

    def keys(self, task: WordTask) -> Sequence[str]:
        return task.planned

    def process(self, task: WordTask) -> Iterator[Made | Refused]:
        with Path(self.spec.log).open("a") as log:
            log.write(f"{task.split}/{task.shard}\n")
        if task.damaged:
            raise ShardError("input is damaged")
        if task.dies_once and not Path(task.dies_once).exists():
            Path(task.dies_once).touch()
            os._exit(1)
        for key in task.planned:
            if key in task.bad:
                yield Refused(key, f"{key}.jpg", "truncated")
            elif key not in task.lost:
                yield Made(key, {"hq.png": key.encode() * 50 + os.urandom(task.megabytes << 20)})


def tasks(count: int = 4) -> list[WordTask]:
    splits = ["train"] * (count - 2) + ["val", "test"]
    return [
        WordTask(split, number, f"in{number}", tuple(f"k{number}{i}" for i in range(5)))
        for number, split in enumerate(splits)
    ]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": f"{Path.cwd()}:{Path(__file__).parent}"}},
    )
    yield
    ray.shutdown()


def run(
    folder: Path, planned: Sequence[WordTask], workers: int = 2, ratio: float = 0.5, **asked: float
) -> JobReport:
    spec = WordSpec(str(folder.parent / f"{folder.name}.log"))
    resources = replace(
        ResourceParams(cpus=1, gpus=0, memory_gb=0, min_actors=1, max_actors=workers),
        **asked,  # type: ignore[arg-type]
    )
    return process_shards(
        planned, spec, folder, config_hash="config", resources=resources, max_quarantine_ratio=ratio
    )


def made(folder: Path) -> list[str]:
    """Which shards were made since the last call."""
    log = folder.parent / f"{folder.name}.log"
    lines = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job without Ray: for what does not concern the actors."""

    def one_by_one(
        todo: Sequence[WordTask], spec: WordSpec, folder: Path, config_hash: str, resources: ResourceParams
    ) -> Iterator[ShardOutcome]:
        worker = spec.build()
        yield from (make_shard(task, worker, folder, config_hash) for task in todo)

    monkeypatch.setattr(shards_job, "on_ray", one_by_one)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_actors_write_the_same_bytes_at_any_width_even_when_one_dies(tmp_path: Path) -> None:
    planned = [replace(task, bad=frozenset({task.planned[0]})) for task in tasks()]
    one, two = tmp_path / "one", tmp_path / "two"
    first = run(one, planned, workers=1)
    dying = [planned[3], replace(planned[0], dies_once=str(tmp_path / "died")), *planned[1:3]]
    run(two, dying, workers=2)
    assert (tmp_path / "died").exists()
    assert content(one) == content(two)
    assert set(content(one)) >= {"train/00000.tar", "val/00002.tar", "manifest.parquet", "quarantine.parquet"}
    summary = first.summary()
    assert (summary["shards"], summary["samples"], summary["quarantined"]) == (4, 16, 4)
    assert made(one) == ["test/3", "train/0", "train/1", "val/2"]

    # A damaged input is an error in words; what was made before it stays.
    damaged = replace(planned[3], input_sha256="new", damaged=True)
    with pytest.raises(ShardError, match="input is damaged"):
        run(one, [*planned[:3], damaged])
    # The stale row is gone, so no reader can take the old shard for the new one.
    assert sorted(Manifest.load(one).shards) == [("train", 0), ("train", 1), ("val", 2)]


@pytest.mark.usefixtures("in_process")
def test_a_rerun_does_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    first = run(folder, tasks())
    made(folder)
    before = content(folder)
    again = run(folder, tasks())
    assert (again.done, again.skipped, made(folder)) == (0, 4, [])
    assert content(folder) == before
    assert again.summary() == first.summary()


@pytest.mark.usefixtures("in_process")
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    killed = tasks()
    killed[2] = replace(killed[2], lost=frozenset({"k20"}))
    with pytest.raises(AccountingError, match="lost"):
        run(folder, killed)
    assert made(folder) == ["train/0", "train/1", "val/2"]
    run(folder, tasks())
    assert made(folder) == ["test/3", "val/2"]


@pytest.mark.usefixtures("in_process")
def test_only_what_does_not_hold_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    run(folder, tasks())
    before = content(folder)
    made(folder)
    # One shard damaged, one gone, leftovers of a killed writer and of an older plan.
    path = shard_path(folder, "train", 1)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    shard_path(folder, "test", 3).unlink()
    (folder / "train/00000.tar.tmp").write_bytes(b"half")
    (folder / "train/00009.tar").write_bytes(b"of another plan")
    report = run(folder, tasks())
    assert made(folder) == ["test/3", "train/1"]
    assert (report.done, report.skipped) == (2, 2)
    assert content(folder) == before

    # A changed input makes its own shard again; a shard no longer planned is removed.
    changed = [replace(tasks()[0], input_sha256="new"), *tasks()[2:]]
    run(folder, changed)
    assert made(folder) == ["train/0"]
    assert not path.exists()
    assert sorted(Manifest.load(folder).shards) == [("test", 3), ("train", 0), ("val", 2)]


@pytest.mark.usefixtures("in_process")
def test_too_many_refusals_fail_after_saving_their_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    planned = [replace(task, bad=frozenset(task.planned[:2])) for task in tasks()]
    with pytest.raises(AccountingError, match=r"8 of 20 .* k00\.jpg: truncated"):
        run(folder, planned, ratio=0.39)
    saved = Manifest.load(folder).refused()
    assert len(saved) == 8
    assert {row.reason for row in saved} == {"truncated"}
    no_val = [replace(task, bad=frozenset(task.planned)) if task.split == "val" else task for task in tasks()]
    with pytest.raises(DataError, match=r"every val face is quarantined; first: k20\.jpg: truncated"):
        run(tmp_path / "other", no_val)


outcomes = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), st.sampled_from(["made", "bad", "lost"]), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(outcomes)
def test_keys_in_are_keys_out_plus_quarantined(
    tmp_path_factory: pytest.TempPathFactory, fate: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("stage")
    groups = {name: frozenset(key for key in fate if fate[key] == name) for name in ("made", "bad", "lost")}
    task = WordTask("train", 0, "in", tuple(sorted(fate)), bad=groups["bad"], lost=groups["lost"])
    worker = WordSpec(str(folder / "log")).build()
    if groups["lost"]:
        with pytest.raises(AccountingError, match="lost"):
            make_shard(task, worker, folder, "config")
        return
    outcome = make_shard(task, worker, folder, "config")
    written = {key for key, _ in read_shard(shard_path(folder, "train", 0), outcome.row.sha256)}
    assert written == groups["made"]
    assert {row.key for row in outcome.refused} == groups["bad"]
    assert outcome.row.count + outcome.row.quarantined == len(fate)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_memory_does_not_grow_with_the_number_of_shards(tmp_path: Path) -> None:
    import psutil

    peaks, driver = [], []
    for count in (4, 24):
        large = [replace(task, megabytes=2) for task in tasks(count)]  # 10 MB a shard
        report = run(tmp_path / str(count), large)
        assert sum(row.bytes for row in report.manifest.shards.values()) > count * 10 << 20
        peaks.append(report.peak_memory)
        driver.append(psutil.Process().memory_info().rss)
    assert peaks[0] > 50 << 20  # of a real process
    # 200 MB more went through; what is kept of a shard is its row.
    assert peaks[1] - peaks[0] < 60 << 20
    assert driver[1] - driver[0] < 60 << 20


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_actor_takes_what_its_stage_asks_for(tmp_path: Path) -> None:
    report = run(tmp_path / "fits", tasks(), cpus=0.5, memory_gb=0.25, min_actors=2)
    assert report.done == 4
    for asked in ({"cpus": 3.0}, {"gpus": 1.0}):
        with pytest.raises(DataError, match=r"an actor takes \d [CG]PUs \(resources of the stage"):
            run(tmp_path / "does not", tasks(), **asked)
    assert not list((tmp_path / "does not").rglob("*.tar"))

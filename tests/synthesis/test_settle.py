"""What is left of earlier runs, against every change of the plan: what is kept is what was planned, whole."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cfpp.data.manifest import Manifest, QuarantineRow, ShardRow, shard_path
from cfpp.data.shards import write_shard
from cfpp.storage import names_under
from cfpp.synthesis.settle import settle
from cfpp.synthesis.shard_work import ShardTask

# Inputs by name, in an order that plans keep. "-" is an empty shard: all alike.
plans = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6).map(sorted)


@st.composite
def plans_with_empty_ones(draw: st.DrawFn) -> list[str]:
    plan = list(draw(plans))
    for _ in range(draw(st.integers(0, 3))):
        plan.insert(draw(st.integers(0, len(plan))), "-")
    return plan


def write(folder: Path, plan: list[str]) -> Manifest:
    """A folder as a finished run leaves it."""
    manifest = Manifest()
    for number, name in enumerate(plan):
        faces = [] if name == "-" else [(name, {"x": name.encode() * 9})]
        file = write_shard(shard_path(folder, "train", number), faces)
        refused = (
            [QuarantineRow("train", number, "k", f"train/{number:05d}.tar", "bad")] if name == "-" else []
        )
        row = ShardRow("train", number, file.count, file.bytes, file.sha256, name, "config", len(refused))
        manifest.put(row, refused)
    manifest.save(folder)
    return manifest


@settings(max_examples=150)
@given(plans_with_empty_ones(), plans_with_empty_ones())
def test_what_is_kept_is_what_was_planned(before: list[str], after: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, before)
        (folder / "train").mkdir(exist_ok=True)
        (folder / "train/00000.tar.1234.tmp").write_bytes(b"half")
        tasks = [ShardTask("train", number, name) for number, name in enumerate(after)]
        todo = settle(folder, Manifest.load(folder), tasks, "config")
        manifest = Manifest.load(folder)
        kept = {spot for spot in manifest.shards if spot not in {(task.split, task.shard) for task in todo}}
        assert len(kept) + len(todo) == len(tasks)
        assert set(manifest.shards) == kept
        for split, number in kept:
            assert manifest.holds(folder, split, number, after[number], "config")
            for row in manifest.quarantine.get((split, number), ()):
                assert (row.shard, row.source) == (number, f"train/{number:05d}.tar")
        assert [name for name in names_under(folder) if name.endswith((".tar", ".tmp"))] == sorted(
            f"{split}/{number:05d}.tar" for split, number in kept
        )
        # No shard with faces is made again that was there before.
        assert {task.input_sha256 for task in todo} - {"-"} == {*after} - {*before} - {"-"}


def test_another_configuration_keeps_nothing(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"])
    tasks = [ShardTask("train", number, name) for number, name in enumerate("ab")]
    assert settle(tmp_path, Manifest.load(tmp_path), tasks, "other") == tasks
    assert not list(tmp_path.rglob("*.tar"))

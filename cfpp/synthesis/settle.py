"""What of a stage folder still holds: kept where it is, moved where its number has changed, or removed."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from cfpp.data.manifest import SPLITS, Manifest, ShardRow, shard_path
from cfpp.data.shards import shard_name
from cfpp.storage import Place, move, names_under, remove
from cfpp.synthesis.shard_work import ShardTask

log = logging.getLogger(__name__)

Task = TypeVar("Task", bound=ShardTask)
Spot = tuple[str, int]  # split and shard number


def settle(folder: Place, manifest: Manifest, tasks: Sequence[Task], config_hash: str) -> list[Task]:
    """Make folder and manifest agree on what is left of earlier runs; returns the tasks to be done.

    A shard that was made from the same input by the same configuration is the same shard, whatever its
    number: new faces shift the numbers of the shards behind them, and those are renamed, not made again.
    Rows, shards and half-written files that no task wants are removed, so that a killed run leaves nothing
    that could be mistaken for the result.
    """
    wanted = {(task.split, task.shard): task for task in tasks}
    held = {
        spot for spot, task in wanted.items() if manifest.holds(folder, *spot, task.input_sha256, config_hash)
    }
    missing = [task for spot, task in wanted.items() if spot not in held]
    moves = _moves(folder, manifest, missing, held, config_hash)
    for spot in sorted({*manifest.shards, *manifest.quarantine} - held - {source for source, _ in moves}):
        manifest.drop(*spot)
    sweep(folder, {*held, *(source for source, _ in moves)})
    manifest.save(folder)
    for source, target in moves:
        _move(folder, manifest, source, target)
    done = held | {target for _, target in moves}
    log.info(
        "%s: %d shards planned, %d still hold, %d of them under another number",
        folder.name,
        len(tasks),
        len(done),
        len(moves),
    )
    return [task for task in tasks if (task.split, task.shard) not in done]


def _moves(
    folder: Place, manifest: Manifest, missing: Sequence[ShardTask], held: set[Spot], config_hash: str
) -> list[tuple[Spot, Spot]]:
    """(from, to) of shards that only change their number, in an order in which none overwrites another.

    Not those of which every face was refused: they are all alike, and cheap.
    """
    rows = [row for spot, row in manifest.shards.items() if row.count and spot not in held]
    by_input = {(row.split, row.input_sha256): row.shard for row in rows}
    moves: list[tuple[Spot, Spot]] = []
    last: Spot = ("", -1)
    for task in sorted(missing, key=lambda task: (task.split, task.shard)):
        source = (task.split, by_input.get((task.split, task.input_sha256), -1))
        if (
            source > last
            and source[1] >= 0
            and manifest.holds(folder, *source, task.input_sha256, config_hash)
        ):
            moves.append((source, (task.split, task.shard)))
            last = source
    # Sources and targets are in the same order, so those that go up make room for each other from the top.
    up = [move for move in moves if move[1] > move[0]]
    down = [move for move in moves if move[1] < move[0]]
    return sorted(up, reverse=True) + sorted(down)


def _move(folder: Place, manifest: Manifest, source: Spot, target: Spot) -> None:
    row, refused = manifest.shards[source], manifest.quarantine.get(source, ())
    old, new = (f"{split}/{shard_name(shard)}" for split, shard in (source, target))
    manifest.drop(*source)
    manifest.save(folder)  # a kill between here and the next save costs this one shard
    move(shard_path(folder, *source), shard_path(folder, *target))
    moved: ShardRow = replace(row, shard=target[1])
    places = (new if item.source == old else item.source for item in refused)
    manifest.put(
        moved, [replace(item, shard=target[1], source=s) for item, s in zip(refused, places, strict=True)]
    )
    manifest.save(folder)


def sweep(folder: Place, kept: Collection[Spot]) -> None:
    """Remove shards other than those kept, and what writers that were killed left half-written."""
    keep = {f"{split}/{shard_name(shard)}" for split, shard in kept}
    for name in names_under(folder):
        stale = name.partition("/")[0] in SPLITS and name.endswith(".tar") and name not in keep
        if stale or name.endswith(".tmp"):
            log.info("removing %s", folder / name)
            remove(folder / name)

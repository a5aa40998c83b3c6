"""Fifty readers of @champion while it changes a hundred times."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from cfpp.registry.champions import Champions
from cfpp.registry.package import log_package, register
from cfpp.registry.provenance import part_tags
from cfpp.registry.runs import Store
from cfpp.restoration.restorer import PARTS, Restorer
from tests.registry.readers import FACE, PARAMS
from tests.tiny_models import write_models

PROCESSES, THREADS, ACTS, VERSIONS = 2, 25, 100, 3
PAUSE = 8.0  # seconds; without, the two cores open models and do little else


@pytest.mark.slow
def test_readers_get_one_whole_version_while_the_champion_changes(tmp_path: Path) -> None:
    store = Store.open(PARAMS, tmp_path)
    run = store.start_stage("register", store.start_parent("p", PARAMS, {}), {})
    expected = {}
    for seed in range(1, VERSIONS + 1):
        models = write_models(tmp_path / f"models{seed}", seed=seed)
        made = register(log_package(models, PARTS, {}), "restorer", part_tags(models, PARTS))
        expected[made.version] = Restorer.load(models).restore(FACE)
    run.end("FINISHED")
    assert len({picture.tobytes() for picture in expected.values()}) == VERSIONS
    np.savez(tmp_path / "expected.npz", **expected)
    champions = Champions.open(PARAMS, tmp_path)
    champions.promote("1", instead_of="", why="first", figures={})

    command = [sys.executable, "-m", "tests.registry.readers", str(tmp_path), str(THREADS), str(PAUSE)]
    readers = [subprocess.Popen(command) for _ in range(PROCESSES)]
    try:
        while len(list(tmp_path.glob("ready-*"))) < PROCESSES:
            assert all(reader.poll() is None for reader in readers)
            time.sleep(0.1)
        aliases = _hundred_acts(champions, list(expected))
    finally:
        (tmp_path / "stop").touch()
        for reader in readers:
            reader.wait(120)
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("readers-*.json")]
    opened = sum((Counter(report["opened"]) for report in reports), Counter[str]())
    assert len(reports) == PROCESSES
    assert opened.total() > ACTS
    assert [fault for report in reports for fault in report["faults"]] == []
    assert set(opened) == set(expected)
    assert min(report["least"] for report in reports) >= 1
    acts = champions.reign().acts
    assert [act.after for act in acts] == ["1", *aliases]
    assert {act.state for act in acts} == {"done"}


def _hundred_acts(champions: Champions, numbers: list[str]) -> list[str]:
    """Promotions and rollbacks by chance, and who was champion after each, by a plain account of them."""
    client, rng = MlflowClient(champions.store.uri), random.Random(0)
    stack, found = ["1"], []
    for _ in range(ACTS):
        now = stack[-1]
        if any(number != now for number in stack) and rng.random() < 0.5:
            champions.roll_back(why="bad", check=lambda number: None)
            stack = [number for number in stack if number != now]
        else:
            stack.append(rng.choice([number for number in numbers if number != now]))
            champions.promote(stack[-1], instead_of=now, why="better", figures={})
        aliases = client.get_registered_model(champions.name).aliases
        below = [number for number in stack if number != stack[-1]]
        assert str(aliases["champion"]) == stack[-1]
        assert str(aliases.get("previous", "")) == (below[-1] if below else "")
        found.append(stack[-1])
    return found

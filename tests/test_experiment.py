"""Experiments in copies of the project: what is copied, what decides a result, what is said of failures."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cfpp.config import ParamsError, load_params
from pipelines.ablate import SEEDS
from pipelines.evaluate import instrument_names
from pipelines.experiment import (
    FOLDER,
    ExperimentError,
    _reason,
    alone,
    clear,
    copy_project,
    identity,
    overridden,
)
from tests.test_ablate import REPOSITORY, write_json


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"train_dam.widnow": 3}, "unknown key train_dam.widnow"),
        ({"nothing.here": 3}, "unknown key nothing.here"),
        ({"train_dam.lncc_window": 8}, "lncc_window: must be odd"),
        (dict.fromkeys(SEEDS, -1), "seed: must be 0 or more"),
    ],
)
def test_what_does_not_fit_is_named(overrides: dict, fault: str) -> None:
    with pytest.raises(ParamsError, match=fault):
        overridden(REPOSITORY, overrides)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a commit, a change that is not committed, and what a `dvc repro` leaves."""
    root = tmp_path / "project"
    for name in ("cfpp/a.py", "docs/gone.md", ".gitignore", "dvc.yaml", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, root / name)
        else:
            (root / name).write_text("committed\n")
    shutil.copy(REPOSITORY / "params.yaml", root)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "Start"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    (root / "cfpp/a.py").write_text("changed\n")
    (root / "cfpp/new.py").write_text("new\n")
    (root / "notes").write_text("no part of the graph\n")
    (root / "docs/gone.md").unlink()
    for name in ("data/shards/train/0.tar", "models/dam/card.json", "reports/per_image.csv", "runs/x/model"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "weights").mkdir()
    params = (root / "params.yaml").read_text()
    assert params.count('weights:\n  root: ""') == 1
    (root / "params.yaml").write_text(params.replace('weights:\n  root: ""', "weights:\n  root: ../weights"))
    return root


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text(errors="replace")
        for path in root.rglob("*")
        if path.is_file() and not {".git", ".cfpp", "runs"} & set(path.relative_to(root).parts)
    }


def test_a_copy_has_what_the_graph_needs_and_the_project_stays(project: Path) -> None:
    before, copy = contents(project), project / FOLDER / "full"
    copy_project(project, copy, project)
    assert (
        contents(copy).items()
        >= {name: text for name, text in before.items() if name not in ("notes",)}.items()
    )
    assert not (copy / "docs/gone.md").exists()
    assert not (copy / "notes").exists()
    tars = [root / "data/shards/train/0.tar" for root in (project, copy)]
    assert tars[0].samefile(tars[1])
    assert (copy / "runs").samefile(project / "runs")
    assert (copy / load_params(copy / "params.yaml").weights.root).resolve() == project.parent / "weights"
    (copy / "mlflow.db").write_text("written by a stage")
    assert (project / "mlflow.db").read_text() == "written by a stage"
    (project / "mlflow.db").unlink()
    status = ["git", "status", "--porcelain"]
    shown = [
        subprocess.run(status, cwd=root, capture_output=True, text=True).stdout for root in (project, copy)
    ]
    assert shown[1] == shown[0].replace("?? notes\n", "")
    local = (copy / ".dvc/config.local").read_text()
    assert str(project / ".dvc/cache") in local
    # what a stage does: replace, never write into
    tars[1].unlink()
    tars[1].write_text("another")
    (copy / "reports/per_image.csv").write_text("another")
    second = project / FOLDER / "ablated"
    copy_project(copy, second, project)
    assert (second / "data/shards/train/0.tar").read_text() == "another"
    assert (second / ".dvc/config.local").read_text() == local
    clear(copy)
    clear(second)
    assert contents(project) == before
    assert (project / "runs/x/model").read_text() == "runs/x/model"


def test_without_a_commit_nothing_is_copied(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(ExperimentError, match="need a git repository with a commit"):
        copy_project(tmp_path, tmp_path / FOLDER / "full", tmp_path)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ExperimentError, match="wait for them"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["x: y", "train_dam: the loss is not finite", "ERROR: failed to reproduce"], "train_dam: the loss"),
        (["Traceback", "KeyError: 'a'", "ERROR: failed"], "ERROR: failed"),
        (["Traceback", "builtins.KeyError: 'a'", "end"], "builtins.KeyError"),
        ([], "the run said nothing"),
        (["evaluate:  33%|###3      | 2/6 [00:10<00:20]", "ERROR: failed"], "ERROR: failed"),
        (["Killed", "cfpp.progress: evaluate: batch 2 of 6, 0.29/s"], "Killed"),
    ],
)
def test_the_reason_is_the_stages_own_word(tmp_path: Path, lines: list[str], reason: str) -> None:
    (tmp_path / "log.txt").write_text("\n".join(lines))
    assert _reason(tmp_path / "log.txt", REPOSITORY).startswith(reason)


def test_all_that_decides_a_result_is_in_its_identity(tmp_path: Path) -> None:
    write_json(tmp_path / "dvc.yaml", {"stages": {"a": {"deps": ["pkg", "stage.py", "data/shards"]}}})
    params, seen = load_params(REPOSITORY / "params.yaml"), set()

    def add(name: str, text: str, changes: bool) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        found = identity(tmp_path, params)
        assert (found not in seen) == changes, name
        seen.add(found)

    for text in ("1", "2"):
        add("stage.py", text, True)
        add("pkg/deep/code.py", text, True)
        add("data/shards/manifest.parquet", text, True)
        add("data/restored/manifest.parquet", text, True)
        add("models/prior/card.json", json.dumps({"sha256": text}), True)
        add("models/tgrn/card.json", json.dumps({"config": {"identity_loss": text}}), True)
        add("reports/metrics.json", json.dumps({"instruments": {"lpips": text}}), True)
        add("pkg/__pycache__/code.pyc", text, False)
        add("data/shards/train/0.tar", text, False)  # pinned by its manifest
        add("other.py", text, False)
    card = {"kind": "tgrn", "config": {"training": {"perceptual": "2"}}, "steps": 1}
    write_json(tmp_path / "pleasing/models/tgrn/card.json", card)
    instruments: Any = SimpleNamespace(names=lambda: {"lpips": "2"})
    noted = instrument_names(instruments, tmp_path / "pleasing")
    assert noted != instruments.names()
    add("reports/metrics.json", json.dumps({"instruments": noted}), False)

"""Python, packages, torch and GPU, each in a good and in a bad state."""

import importlib
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from cfpp.health.finding import Level
from cfpp.health.installation import check_gpu, check_packages, check_python, check_torch
from tests.health.altered import PARAMS_FILE


def test_python_is_held_against_what_the_package_asks_for() -> None:
    assert check_python().level is Level.OK
    old = check_python("3.9.1")
    assert old.level is Level.PROBLEM
    assert "3.9.1, needed" in old.message
    assert "remove .venv" in old.remedy  # make would keep it, with its Python
    assert check_python(package="no-such-package-here").level is Level.PROBLEM


def test_what_is_to_be_run_installs_though_it_was_installed_before(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-uv.lock"):
        shutil.copy(PARAMS_FILE.parent / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.ready").touch()
    command = re.findall(r"`(make [^`]*)`", check_packages(["no-such-package-here"]).remedy)
    done = subprocess.run(
        [*command[0].split(), "--dry-run", "PYTHON=python3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "uv pip sync" in done.stdout


def test_packages_that_are_missing_or_of_another_version_are_named() -> None:
    assert check_packages().level is Level.OK
    found = check_packages(["numpy<1", "no-such-package-here>=2", "pytest>=1", 'other; extra == "dev"'])
    assert found.level is Level.PROBLEM
    assert "numpy" in found.message
    assert "no-such-package-here is missing" in found.message
    assert "pytest" not in found.message
    assert "other" not in found.message


def test_torch_works_here() -> None:
    found = check_torch()
    assert found.level is Level.OK
    assert "torchvision" in found.message


def test_a_torchvision_of_another_build_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore lines")
        return importlib.import_module(name)

    found = check_torch(load)
    assert found.level is Level.PROBLEM
    assert found.message == "does not work: operator torchvision::nms does not exist"
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert check_torch().level is Level.PROBLEM


def test_a_gpu_that_is_asked_for_and_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    assert check_gpu([], on_cluster=False).level is Level.OK
    asked = check_gpu(["train_dam.train.use_gpu"], on_cluster=False)
    assert asked.level is Level.PROBLEM
    assert "train_dam.train.use_gpu" in asked.message
    assert check_gpu(["train_dam.train.use_gpu"], on_cluster=True).level is Level.OK

    device = types.SimpleNamespace(name="A GPU", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    for bf16, level in ((True, Level.OK), (False, Level.WARNING)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, bf16=bf16: bf16)
        found = check_gpu(["train_dam.train.use_gpu"], on_cluster=False)
        assert found.level is level
        assert "A GPU (80 GiB)" in found.message

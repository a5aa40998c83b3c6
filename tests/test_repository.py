"""What the repository promises of itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cfpp.imports import needed_code, source_of

REPOSITORY = Path(__file__).resolve().parents[1]


def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=REPOSITORY, capture_output=True, check=True, text=True
    ).stdout
    return [REPOSITORY / name for name in names.split("\0") if name]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-uv.lock"])
def test_every_locked_package_is_pinned_with_a_hash_and_no_address(lock: str) -> None:
    text = (REPOSITORY / lock).read_text()
    requirements = re.findall(r"^[a-z0-9][^\n]*(?:\n +[^\n]*)*", text, re.MULTILINE)
    assert requirements
    for requirement in requirements:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
    assert "://" not in text


def test_every_stage_names_files_and_params_that_exist() -> None:
    yaml = YAML(typ="safe")
    stages = yaml.load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    params = yaml.load((REPOSITORY / "params.yaml").read_text())
    made = [
        out
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    ]
    names = {name for out in made for name in ([out] if isinstance(out, str) else out)}
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m pipelines.{name}"
        assert {key.split(".")[0] for key in stage["params"]} <= set(params)
        for dependency in stage["deps"]:
            assert dependency in names or (REPOSITORY / dependency).exists(), dependency


STAGES = ["shard", "prior", "synthesize", "train_dam", "pair", "train_tgrn", "evaluate", "register"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_that_decides_its_result(stage: str) -> None:
    yaml = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert list(yaml) == STAGES
    own = ("cfpp", "pipelines")
    # What reads params and source, or keeps records, decides no byte.
    plumbing = needed_code("pipelines.session", "cfpp.imports", "cfpp.progress", own=own).own
    for module in needed_code(f"pipelines.{stage}", own=own).own - plumbing:
        path = source_of(module)
        assert path is not None
        places = [place for place in (path, *path.parents) if place.is_relative_to(REPOSITORY)]
        names = {str(place.relative_to(REPOSITORY)) for place in places}
        assert path.name == "__init__.py" or names & set(yaml[stage]["deps"]), f"{stage}: {module}"


def test_importing_the_library_starts_nothing_and_stays_light() -> None:
    heavy = "{'ray', 'mlflow', 'dvc', 'torch'}"
    code = f"import sys, cfpp.cli, cfpp.config; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

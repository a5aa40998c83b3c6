"""What the repository promises of itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

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
    made = [out for stage in stages.values() for out in stage["outs"] + stage.get("metrics", [])]
    names = {name for out in made for name in ([out] if isinstance(out, str) else out)}
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m pipelines.{name}"
        assert set(stage["params"]) <= set(params)
        for dependency in stage["deps"]:
            assert dependency in names or (REPOSITORY / dependency).exists(), dependency


def test_importing_the_library_starts_nothing_and_stays_light() -> None:
    heavy = "{'ray', 'mlflow', 'dvc', 'torch'}"
    code = f"import sys, cfpp.cli, cfpp.config; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = YAML(typ="safe").load((REPOSITORY / "ray_cluster.yaml").read_text())
    validate_config(prepare_config(cluster))
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"]["CPU"] == 0
    with pytest.raises(Exception, match="not_a_key"):
        validate_config(prepare_config(cluster | {"not_a_key": 1}))

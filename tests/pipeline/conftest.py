"""The whole graph, run once for all that look at what it made."""

from pathlib import Path

import pytest

from cfpp.profiles import apply_profile
from tests.pipeline.project import Project

SMALLEST = Path(__file__).with_name("smallest.yaml")
STAGES = ["shard", "prior", "synthesize", "train_dam", "pair", "train_tgrn", "evaluate", "register"]


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project at the smallest size after `dvc repro`; whoever changes it works on a copy."""
    project = Project(tmp_path_factory.mktemp("project"))
    apply_profile(SMALLEST, project.folder / "params.yaml")
    assert project.repro() == STAGES
    return project

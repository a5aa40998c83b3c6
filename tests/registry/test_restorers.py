"""Restorers by name: a folder, a version of the registry, and what is refused."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest

from cfpp.config import MlflowParams
from cfpp.models.weights import WeightsError
from cfpp.registry.package import log_package, register
from cfpp.registry.provenance import RegistryError, part_tags
from cfpp.registry.restorers import open_restorer
from cfpp.registry.runs import Store
from cfpp.restoration.restorer import PARTS, Restorer
from tests.tiny_models import SIZE, write_models

PARAMS = MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name="restorer")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Tiny models, registered with alias champion."""
    models = write_models(tmp_path / "models")
    store = Store.open(PARAMS, tmp_path)
    run = store.start_stage("register", store.start_parent("p", PARAMS, {}), {})
    registered = register(log_package(models, PARTS, {}), "restorer", part_tags(models, PARTS))
    run.end("FINISHED")
    mlflow.MlflowClient(store.uri).set_registered_model_alias("restorer", "champion", registered.version)
    yield tmp_path
    mlflow.set_tracking_uri(None)


def test_a_version_and_a_folder_restore_alike_and_what_is_wrong_is_named(project: Path) -> None:
    faces = np.random.default_rng(5).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    expected = Restorer.load(project / "models").restore(faces)
    for reference in ("models:/restorer@champion", "models:/restorer/1", "champion", "1"):
        opened = open_restorer(reference, PARAMS, project)
        assert opened.title == "restorer version 1 (champion)"
        np.testing.assert_array_equal(opened.restorer.restore(faces), expected)
    folder = open_restorer(str(project / "models"), PARAMS, project)
    assert folder.version is None
    assert folder.weights == opened.weights
    np.testing.assert_array_equal(folder.restorer.restore(faces), expected)

    with pytest.raises(RegistryError, match=r"@nobody: no such model version; there is restorer version 1"):
        open_restorer("models:/restorer@nobody", PARAMS, project)
    with pytest.raises(WeightsError, match="not found"):
        open_restorer(str(project / "mlartifacts"), PARAMS, project)

    client = mlflow.MlflowClient()
    sha = client.get_model_version("restorer", "1").tags["dam.sha256"]
    client.set_model_version_tag("restorer", "1", "dam.sha256", "0" * 64)
    with pytest.raises(RegistryError, match="its dam is not the one that was registered"):
        open_restorer("champion", PARAMS, project)
    client.set_model_version_tag("restorer", "1", "dam.sha256", sha)
    [part] = (project / "mlartifacts").rglob("artifacts/dam")
    shutil.rmtree(part)
    with pytest.raises(RegistryError, match=r"restorer version 1 \(champion\): .*dam.*not found"):
        open_restorer("champion", PARAMS, project)
    shutil.rmtree(project / "mlartifacts")
    with pytest.raises(RegistryError, match="its files cannot be had"):
        open_restorer("champion", PARAMS, project)

"""The packaged restorer, loaded back here and in a process that has no cfpp."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from cfpp.config import MlflowParams
from cfpp.imports import needed_code
from cfpp.registry.package import Registered, load_package, log_package, register, requirements
from cfpp.registry.runs import Store
from cfpp.restore import PARTS, Restorer
from tests.tiny_models import SIZE, write_models

PARAMS = MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name="restorer")


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Registered, str]]:
    """Tiny models, their registered package, and the tracking URI."""
    root = tmp_path_factory.mktemp("project")
    models = write_models(root / "models")
    store = Store.open(PARAMS, root)
    run = store.start_stage("register", store.start_parent("p", PARAMS, {}), {})
    try:
        tags = {"git_commit": "abc"}
        registered = register(log_package(models, PARTS, tags), "restorer", tags)
    finally:
        run.end("FINISHED")
    yield models, registered, store.uri
    mlflow.set_tracking_uri(None)


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def test_package_restores_bit_for_bit_as_the_models_do(packaged: Any, faces: np.ndarray) -> None:
    models, registered, uri = packaged
    mlflow.MlflowClient(uri).set_registered_model_alias("restorer", "challenger", registered.version)
    model = load_package("models:/restorer@challenger")
    np.testing.assert_array_equal(model.predict(faces), Restorer.load(models).restore(faces))
    with pytest.raises(mlflow.MlflowException):
        model.predict(faces.astype(np.float32))
    version = mlflow.MlflowClient(uri).get_model_version("restorer", registered.version)
    assert version.tags["git_commit"] == "abc"


@pytest.mark.slow
def test_package_runs_where_the_project_is_not_installed(
    packaged: Any, faces: np.ndarray, tmp_path: Path
) -> None:
    models, registered, uri = packaged
    folder = mlflow.artifacts.download_artifacts(
        registered.uri, tracking_uri=uri, dst_path=str(tmp_path / "m")
    )
    np.save(tmp_path / "in.npy", faces)
    script = f"""
        import sys
        # an editable install puts the project on the path; this process must not see it
        sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
        sys.path = [p for p in sys.path if "site-packages" in p or "python3" in p]
        try:
            import cfpp
            sys.exit(f"cfpp is still there: {{cfpp.__file__}}")
        except ImportError:
            pass
        import mlflow, numpy as np
        out = mlflow.pyfunc.load_model({folder!r}).predict(np.load("in.npy"))
        import cfpp
        assert cfpp.__file__.startswith({folder!r}), cfpp.__file__
        np.save("out.npy", out)
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    (tmp_path / "run.py").write_text(textwrap.dedent(script))
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, env=environment, check=True, timeout=400)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), Restorer.load(models).restore(faces))


def test_package_takes_along_what_it_needs_and_no_more() -> None:
    code = needed_code("cfpp.restore")
    assert {"cfpp", "cfpp.restore", "cfpp.models.codeformer.quantizer", "cfpp.data.pictures"} <= code.own
    assert not any(
        name.startswith(("cfpp.training.", "cfpp.registry.", "cfpp.objectives.")) for name in code.own
    )
    pins = dict(line.split("==") for line in requirements(code))
    assert {"mlflow", "torch", "numpy", "opencv-python", "safetensors", "pillow"} <= set(pins)
    assert not {"ray", "dvc", "webdataset", "pyarrow", "lpips", "kornia", "setuptools"} & set(pins)
    assert all("+" not in version for version in pins.values())

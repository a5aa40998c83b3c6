"""One MLflow model of the three trained ones: weights, the code that runs them, and exact requirements.

The package loads where this project is not installed. Its code and its requirements are read off the import
statements that start at the modules which `restorer_model` uses, so neither list can fall behind. The face
detector for whole photographs, with all that it needs, goes along only where its weights are given.
"""

import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfpp.imports import ROOT, Code, needed_code, source_of
from cfpp.restoration.request import Settings

_TYPES = {"w": "double", "aligned": "boolean", "batch_size": "long"}  # MLflow's, of a request's params
_MODEL_CODE = Path(__file__).with_name("restorer_model.py")


@dataclass(frozen=True)
class Registered:
    """A version in the model registry."""

    name: str
    version: str
    model_id: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def package_code(detector: bool) -> Code:
    """What a package runs; with a face detector, whole photographs too."""
    photographs = ("cfpp.restoration.photographs", "cfpp.models.face_detector") if detector else ()
    return needed_code("cfpp.restoration.restorer", "cfpp.restoration.request", *photographs)


def copy_code(code: Code, folder: Path) -> Path:
    """Copy the own modules of `code` into `folder`; returns the package there, for `code_paths`."""
    for name in sorted(code.own):
        source = source_of(name)
        assert source is not None
        target = folder / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return folder / "cfpp"


def requirements(code: Code) -> list[str]:
    """Exact pins, as installed here, of what `code` imports, and MLflow to load it."""
    distributions = importlib.metadata.packages_distributions()
    names = {distributions[module][0] for module in code.foreign if module in distributions} | {"mlflow"}
    # a local build such as 2.9.0+cpu is in no index
    return sorted(f"{name.lower()}=={importlib.metadata.version(name).split('+')[0]}" for name in names)


def log_package(
    models: Path, parts: Sequence[str], tags: Mapping[str, str], detector: Path | None = None
) -> Any:
    """Log the restorer made of these `parts` of `models` (`Restorer.parts`) in MLflow's active run.

    Args:
        detector: the face detector's weights, as `find_detector` gives them; None = aligned faces only.

    Returns:
        MLflow's ModelInfo.
    """
    import mlflow

    code = package_code(detector is not None)
    artifacts = {part: str(models / part) for part in parts}
    if detector is not None:
        artifacts["detector"] = str(detector)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # the signature is given, and running the model here once more would prove nothing
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        return mlflow.pyfunc.log_model(
            name="restorer",
            python_model=str(_MODEL_CODE),
            artifacts=artifacts,
            signature=_signature(pairs="prior" not in parts),
            pip_requirements=requirements(code),
            code_paths=[str(copy_code(code, Path(folder)))],
            tags=dict(tags),
        )


def _signature(pairs: bool) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    byte, shape = np.dtype(np.uint8), (-1, -1, -1, 3)
    return ModelSignature(
        inputs=Schema([TensorSpec(byte, (-1, 2, *shape[1:]) if pairs else shape)]),
        outputs=Schema([TensorSpec(byte, shape)]),
        params=ParamSchema([ParamSpec(name, kind, getattr(Settings, name)) for name, kind in _TYPES.items()]),
    )


def register(model_info: Any, name: str, tags: Mapping[str, str]) -> Registered:
    """Make a logged model the next version of `name`."""
    import mlflow

    version = mlflow.register_model(model_info.model_uri, name, tags=dict(tags))
    return Registered(name, str(version.version), str(model_info.model_id))


def load_package(uri: str) -> Any:
    """MLflow's PyFuncModel at `uri`, e.g. models:/codeformer-plus-plus@challenger."""
    import mlflow

    return mlflow.pyfunc.load_model(uri)

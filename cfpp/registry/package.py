"""One MLflow model of the three trained ones: weights, the code that runs them, and exact requirements.

The package loads where this project is not installed. Its code and its requirements are read off the import
statements that start at `cfpp.restore`, so neither list can fall behind.
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

_ENTRY = "cfpp.restore"
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


def log_package(models: Path, parts: Sequence[str], tags: Mapping[str, str]) -> Any:
    """Log the restorer made of these `parts` of `models` (`Restorer.parts`) in MLflow's active run.

    Returns:
        MLflow's ModelInfo.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    shape = (-1, -1, -1, 3)
    inputs = Schema([TensorSpec(np.dtype(np.uint8), shape if "prior" in parts else (-1, 2, *shape[1:]))])
    outputs = Schema([TensorSpec(np.dtype(np.uint8), shape)])
    code = needed_code(_ENTRY)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # the signature is given, and running the model here once more would prove nothing
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        return mlflow.pyfunc.log_model(
            name="restorer",
            python_model=str(_MODEL_CODE),
            artifacts={part: str(models / part) for part in parts},
            signature=ModelSignature(inputs=inputs, outputs=outputs),
            pip_requirements=requirements(code),
            code_paths=[str(copy_code(code, Path(folder)))],
            tags=dict(tags),
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

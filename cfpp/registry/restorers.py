"""The restorer of a folder, or of a version in the registry.

A version's weights are run by the code that is here. MLflow's own loading would prefer the code in the
package, but a module that is imported already stays, so that two versions would share that of the first.
"""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from cfpp.config import MlflowParams
from cfpp.errors import MendableError
from cfpp.models.weights import read_card
from cfpp.registry.provenance import RegistryError, Version, find_version, open_store
from cfpp.restoration.restorer import Restorer


class DeviceError(MendableError, ValueError):
    """No such device; the message says which there are."""


@dataclass(frozen=True)
class Opened:
    """A restorer that is ready.

    Attributes:
        restorer: on the device that was asked for.
        title: for people: the folder, or the version with its aliases.
        weights: for people: the parts, each with the beginning of its weights' sha256.
        version: of the registry; None for a folder.
    """

    restorer: Restorer
    title: str
    weights: str
    version: Version | None


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_device(name: str | None) -> torch.device:
    """The device `cpu`, `cuda` or `cuda:1`; None: see `best_device`.

    Raises:
        DeviceError: it has another name, or is not here.
    """
    if name is None:
        return best_device()
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceError(f"device {name}: must be cpu, cuda, or one GPU by its number, as cuda:0")
    device, count = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        there = f"cuda:0 to cuda:{count - 1}" if count else "no GPU that torch can use"
        raise DeviceError(f"device {name}: there is {there}; cpu works everywhere")
    return device


def open_restorer(
    reference: str, params: MlflowParams, root: Path, device: str | torch.device | None = None
) -> Opened:
    """The restorer that `reference` names.

    Args:
        reference: a folder of prior, dam and tgrn; or a version of the registry as `find_version` takes it.
        root: of the project, whose tracking store has the registry.
        device: where to put it; None: see `best_device`.

    Raises:
        RegistryError: no such version, its files are gone, or the registry does not answer.
        WeightsError: a model is damaged, never trained, or of another kind.
    """
    device = best_device() if device is None else torch.device(device)
    if Path(reference).is_dir():
        return open_folder(Path(reference), device)
    version = find_version(open_store(params, root), params.model_name, reference)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    with tempfile.TemporaryDirectory(prefix="cfpp-") as folder:
        uri = f"models:/{version.name}/{version.number}/artifacts"
        try:
            models = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        except (mlflow.MlflowException, OSError) as error:
            raise RegistryError(f"{version.title}: its files cannot be had: {error}") from error
        return _opened(models, device, version.title, version)


def open_folder(models: Path, device: str | torch.device | None = None) -> Opened:
    """The restorer of a folder of prior, dam and tgrn, which needs no registry and no params.

    Raises:
        WeightsError: a model is missing, damaged, never trained, or of another kind.
    """
    return _opened(models, best_device() if device is None else torch.device(device), str(models), None)


def _opened(models: Path, device: torch.device, title: str, version: Version | None) -> Opened:
    try:
        restorer = Restorer.load(models, device)
    except MendableError as error:
        if version is None:
            raise
        raise RegistryError(f"{title}: {error}") from error
    shas = {part: read_card(models / part).sha256 for part in restorer.parts}
    for part, sha in shas.items():
        if version is not None and version.tags.get(f"{part}.sha256", sha) != sha:
            raise RegistryError(f"{title}: its {part} is not the one that was registered (sha256)")
    weights = ", ".join(f"{part} {sha[:12]}" for part, sha in shas.items())
    return Opened(restorer, title, weights, version)

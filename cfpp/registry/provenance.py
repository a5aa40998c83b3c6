"""What the model registry knows of where a version came from: its tags, its parts' cards, their runs.

MLflow is imported by the functions, not by the module: see `cfpp.registry.runs`.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cfpp.config import MlflowParams
from cfpp.errors import MendableError, masked
from cfpp.models.weights import CARD_FILE, Card, read_card
from cfpp.registry.runs import Store, absolute_uri

_SQLITE = "sqlite:///"
_MODELS = "models:/"


class RegistryError(MendableError, LookupError):
    """There is no such model version, or no answer; the message says which there are, or why."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: datetime

    @property
    def title(self) -> str:
        """For people: its name, number and aliases."""
        aliases = f" ({', '.join(self.aliases)})" if self.aliases else ""
        return f"{self.name} version {self.number}{aliases}"


def part_tags(models: Path, parts: Sequence[str]) -> dict[str, str]:
    """A version's tags for its parts: the sha256 of each one's weights, the run that trained it, its data.

    Raises:
        WeightsError: a part has no card.
    """
    tags: dict[str, str] = {}
    for part in parts:
        card = read_card(models / part)
        known = {"sha256": card.sha256, "trained_by": card.source, "data": card.data_manifest_sha256}
        tags |= {f"{part}.{name}": value for name, value in known.items() if value}
    return tags


def open_store(params: MlflowParams, root: Path) -> Store | None:
    """The project's tracking store; None where nothing was ever written to it, which is not changed.

    Raises:
        RegistryError: it does not answer.
    """
    uri = absolute_uri(params.tracking_uri, root)
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        return None
    with answering(uri):
        return Store.open(params, root)


def all_versions(store: Store, name: str) -> list[Version]:
    """Every version of a registered model, oldest first; none where there is no such model.

    Raises:
        RegistryError: the store does not answer.
    """
    import mlflow

    quote = '"' if "'" in name else "'"
    named = f"name = {quote}{name}{quote}"
    with answering(store.uri):
        mlflow.set_tracking_uri(store.uri)
        models = mlflow.search_registered_models(filter_string=named)
        found = mlflow.search_model_versions(filter_string=named)
    aliases: dict[str, str] = models[0].aliases if models else {}
    return sorted((_version(item, aliases) for item in found), key=lambda version: int(version.number))


def find_version(store: Store | None, name: str, reference: str) -> Version:
    """A version by its number, its alias, or models:/NAME/NUMBER and models:/NAME@ALIAS.

    Args:
        name: of the registered model, where the reference has none.

    Raises:
        RegistryError: there is none, or the store does not answer.
    """
    wanted = reference
    if reference.startswith(_MODELS):
        path = reference.removeprefix(_MODELS)
        name, _, wanted = path.partition("@" if "@" in path else "/")
    found = _look_up(store, name, wanted) if store else None
    if found is not None:
        return found
    versions = all_versions(store, name) if store else []
    titles = (
        ", ".join(version.title for version in versions) or f"no version of {name}; run dvc repro register"
    )
    raise RegistryError(f"{reference}: no such model version; there is {titles}")


def package_cards(version: Version, parts: Sequence[str]) -> dict[str, Card]:
    """The cards inside the version's package, by part; those that cannot be fetched are left out."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # files of a few hundred bytes
    import mlflow

    cards = {}
    with tempfile.TemporaryDirectory(prefix="cfpp-") as folder:
        for part in parts:
            uri = f"{_MODELS}{version.name}/{version.number}/artifacts/{part}/{CARD_FILE}"
            try:
                path = mlflow.artifacts.download_artifacts(uri, dst_path=str(Path(folder, part)))
                cards[part] = read_card(Path(path).parent)
            except (mlflow.MlflowException, OSError, MendableError):
                continue  # the tags say as much as is needed to find another copy
    return cards


def training_runs(store: Store | None) -> dict[str, list[str]]:
    """Ids of the MLflow runs, oldest first, that left or took up the weights of each training run.

    Raises:
        RegistryError: the store does not answer.
    """
    import mlflow

    if store is None:
        return {}
    with answering(store.uri):
        runs: list[Any] = mlflow.search_runs(
            [store.experiment_id],
            "tags.weights_from != ''",
            order_by=["attributes.start_time ASC"],
            output_format="list",
        )
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(run.data.tags["weights_from"], []).append(run.info.run_id)
    return found


def _look_up(store: Store, name: str, wanted: str) -> Version | None:
    """One version in one question: a list of versions and one of aliases may be of different moments."""
    import mlflow
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

    client = mlflow.MlflowClient(store.uri)
    absent = {ErrorCode.Name(code) for code in (INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST)}
    with answering(store.uri):
        mlflow.set_tracking_uri(store.uri)
        ask = client.get_model_version if wanted.isdigit() else client.get_model_version_by_alias
        try:
            found = ask(name, wanted)
        except mlflow.MlflowException as error:
            if error.error_code in absent:  # of such a name, or of none that is allowed
                return None
            raise
    return _version(found, dict.fromkeys(found.aliases, found.version))


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Say which setting names the store that does not answer."""
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (mlflow.MlflowException, SQLAlchemyError) as error:
        reason = " ".join(str(error).split())
        raise RegistryError(masked(f"mlflow.tracking_uri {uri}: {reason}")) from error


def _version(found: Any, aliases: dict[str, str]) -> Version:
    own = sorted(alias for alias, number in aliases.items() if str(number) == str(found.version))
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(found.name, str(found.version), tuple(own), dict(found.tags), created)

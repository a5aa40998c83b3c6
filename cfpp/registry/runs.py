"""MLflow runs of the pipeline: one parent run per `dvc repro`, one nested run per stage.

MLflow is imported by the functions, not by the module: it takes seconds, and a stage that waits for Ray
anyway imports it meanwhile.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from cfpp.config import MlflowParams, to_dict
from cfpp.files import replacing

logger = logging.getLogger(__name__)

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"

_SQLITE = "sqlite:///"
_LONGEST_VALUE = 500  # characters; the limit of the older tracking servers


def absolute_uri(uri: str, root: Path) -> str:
    """Tracking URI with a relative sqlite path made absolute, so that every worker finds the same file."""
    if uri.startswith(_SQLITE) and not uri.removeprefix(_SQLITE).startswith("/"):
        return f"{_SQLITE}{root.resolve() / uri.removeprefix(_SQLITE)}"
    return uri


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys: {"train": {"steps": 5}} to {"train.steps": 5}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        flat |= flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat


@dataclass(frozen=True)
class Store:
    """The tracking store of a project, ready for use: created, migrated, with its experiment."""

    uri: str
    experiment_id: str

    @classmethod
    def open(cls, params: MlflowParams, root: Path) -> "Store":
        """Create or migrate the database and the experiment, one process at a time.

        Artifacts of a local store go to `root`/mlartifacts; a tracking server decides for itself.
        """
        import mlflow

        for name in ("mlflow.system_metrics", "mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = absolute_uri(params.tracking_uri, root)
        folder = root / ".cfpp"
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "tracking.lock"):
            _create_database(uri)
            mlflow.set_tracking_uri(uri)
            client = mlflow.MlflowClient(uri)
            experiment = client.get_experiment_by_name(params.experiment)
            local = (root / "mlartifacts").resolve().as_uri() if uri.startswith(_SQLITE) else None
            if experiment is None:
                return cls(uri, client.create_experiment(params.experiment, artifact_location=local))
        if local and experiment.artifact_location != local:
            logger.warning(
                "the experiment keeps its artifacts in %s, not in %s: was the project folder moved?",
                experiment.artifact_location,
                local,
            )
        return cls(uri, experiment.experiment_id)

    def start_parent(self, name: str, params: Any, tags: Mapping[str, str]) -> str:
        """Start the run that the stages of one `dvc repro` are nested in; returns its id."""
        client = _client(self.uri)
        run = client.create_run(self.experiment_id, run_name=name, tags={**tags, "mlflow.user": _user()})
        _log_params(client, run.info.run_id, to_dict(params))
        return str(run.info.run_id)

    def start_stage(self, stage: str, parent_run_id: str, tags: Mapping[str, str]) -> "StageRun":
        """Start the nested run of a stage and make it MLflow's active run, system metrics on."""
        import mlflow

        run = mlflow.start_run(
            experiment_id=self.experiment_id,
            run_name=stage,
            parent_run_id=parent_run_id,
            tags={**tags, "stage": stage},
            log_system_metrics=True,
        )
        return StageRun(self.uri, run.info.run_id)


@dataclass(frozen=True)
class StageRun:
    """The nested MLflow run of one stage."""

    uri: str
    run_id: str

    def log_params(self, tree: Mapping[str, Any]) -> None:
        """Log a nested mapping of parameters under dotted keys."""
        _log_params(_client(self.uri), self.run_id, tree)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        import mlflow

        mlflow.log_metrics({name: float(value) for name, value in metrics.items()}, step, run_id=self.run_id)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Upload a file, or a folder with all it holds, under `folder` of the run's artifacts."""
        client = _client(self.uri)
        upload = client.log_artifacts if Path(path).is_dir() else client.log_artifact
        upload(self.run_id, str(path), folder)

    def log_image(self, name: str, picture: np.ndarray, step: int | None = None) -> None:
        """Log a picture, uint8 [H, W, 3] RGB; with a step it becomes one frame of a series."""
        if step is None:
            _client(self.uri).log_image(self.run_id, picture, artifact_file=f"pictures/{name}.png")
        else:
            _client(self.uri).log_image(self.run_id, picture, key=name, step=step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        set_tags(self.uri, self.run_id, tags)

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        import mlflow

        mlflow.end_run(status)


def set_tags(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of any run; what they held before is replaced."""
    client = _client(uri)
    for name, value in tags.items():
        client.set_tag(run_id, name, value)


def close_parent(uri: str, run_id: str, status: str) -> None:
    """Close a parent run; a nested run left open by a process that died is closed as KILLED."""
    client = _client(uri)
    run = client.get_run(run_id)
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}' and status = 'RUNNING'"
    )
    for child in children:
        client.set_terminated(child.info.run_id, KILLED)
    if run.info.status == "RUNNING":
        client.set_terminated(run_id, status)


def _create_database(uri: str) -> None:
    """Make a SQLite file that does not exist yet, whole or not at all.

    MLflow makes its tables one by one in place; killed meanwhile, it leaves a file that it never opens again.
    """
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or path.exists():
        return
    from mlflow.store.db import utils

    with replacing(path) as partial:
        engine = utils.create_sqlalchemy_engine(f"{_SQLITE}{partial}")
        utils._initialize_tables(engine)
        engine.dispose()


def _client(uri: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(uri)


def _log_params(client: Any, run_id: str, tree: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = {name: str(value)[:_LONGEST_VALUE] for name, value in flatten(tree).items()}
    params = [Param(name, value) for name, value in flat.items() if value]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"

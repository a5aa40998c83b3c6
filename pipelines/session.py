"""What every stage opens first: the Ray head and the MLflow runs it belongs to.

    with open_stage("synthesize") as session:
        ...
        session.log_metrics({"faces": count})

Under `dvc repro` all stages share one Ray head and one MLflow parent run, kept by `pipelines.host`. Run by
hand, or as a Ray job, a stage has its own. A cluster named by RAY_ADDRESS is joined in either case. Code on
a cluster's nodes comes with the Ray job's working_dir, or from a folder that all nodes share.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfpp.config import Params, load_params, to_dict
from cfpp.errors import MendableError
from cfpp.lineage import lineage
from cfpp.registry.runs import FAILED, FINISHED, KILLED, StageRun, Store, close_parent, set_tags
from cfpp.registry.sink import MlflowSink
from pipelines.host import Process, SessionFile, find_owner, spawn, start_head

logger = logging.getLogger(__name__)

RAY_TIMEOUT = 180.0  # seconds; ten are usual on two cores

# the parameters that a stage's own run shows; the parent run shows all
_SECTIONS: dict[str, tuple[str, ...]] = {
    "shard": ("run", "data"),
    "prior": ("run", "degradation", "prior"),
    "synthesize": ("run", "degradation", "prior", "synthesize"),
    "train_dam": ("run", "train_dam"),
    "pair": ("run", "pair"),
    "train_tgrn": ("run", "train_tgrn"),
    "evaluate": ("run", "evaluate", "weights"),
    "register": ("run", "mlflow"),
}


class SessionError(MendableError, RuntimeError):
    """The Ray head of this `dvc repro` could not be reached."""


@dataclass(frozen=True)
class Session:
    """An open stage: where the project is and where its records go."""

    stage: str
    params: Params
    root: Path
    parent_run_id: str
    run: StageRun

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def tracking_uri(self) -> str:
        """Absolute, so that it means the same in a worker's folder."""
        return self.run.uri

    @property
    def sink(self) -> MlflowSink:
        """For a worker: pickle it there, then `open()`."""
        return MlflowSink(self.run.uri, self.run.run_id)

    def log_params(self, tree: Mapping[str, Any]) -> None:
        """Log a nested mapping of parameters under dotted keys."""
        self.run.log_params(tree)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.run.log_metrics(metrics, step)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Upload a file, or a folder with all it holds, to the stage's run."""
        self.run.log_artifact(path, folder)

    def log_image(self, name: str, picture: np.ndarray, step: int | None = None) -> None:
        """Log a picture, uint8 [H, W, 3] RGB."""
        self.run.log_image(name, picture, step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.run.set_tags(tags)


@contextmanager
def open_stage(stage: str, *, ray: bool | Callable[[Params], bool] = True) -> Iterator[Session]:
    """The whole frame of a stage: its log, params.yaml, its session, and one line for what a person can mend.

    Args:
        stage: its name in dvc.yaml.
        ray: whether it uses Ray, or what tells by the params.

    Raises:
        SystemExit: with that line.
    """
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        params = load_params()
        with stage_session(stage, params, ray(params) if callable(ray) else ray) as session:
            yield session
    except MendableError as error:
        raise SystemExit(f"{stage}: {error}") from error


@contextmanager
def stage_session(stage: str, params: Params, ray: bool) -> Iterator[Session]:
    """Open the stage's nested MLflow run and, if it uses `ray`, connect to Ray.

    The run ends FINISHED, FAILED (an exception leaves the block) or KILLED (Ctrl-C).

    Raises:
        SessionError: the host could not start Ray in time; the message shows the end of its log.
    """
    root = Path.cwd()
    owner = find_owner()
    shared = _Shared(SessionFile.of(owner, root), owner) if owner else None
    cluster = os.environ.get("RAY_ADDRESS")
    if shared:
        shared.enter(stage, wants_ray=ray and not cluster)
    status, run, parent = FAILED, None, None
    store: Store | None = None
    try:
        store = Store.open(params.mlflow, root)
        tags = lineage(params, root)
        parent = shared.parent(store, params, tags) if shared else store.start_parent(stage, params, tags)
        run = store.start_stage(stage, parent, tags)
        run.log_params({name: to_dict(getattr(params, name)) for name in _SECTIONS.get(stage, ("run",))})
        if ray:
            _connect(cluster, shared, root)
        yield Session(stage, params, root, parent, run)
        tags = lineage(params, root)  # the stage may have made what the first tags could not name
        for run_id in (run.run_id, parent):
            set_tags(store.uri, run_id, tags)
        status = FINISHED
    except KeyboardInterrupt:
        status = KILLED
        raise
    except SystemExit as end:
        status = FAILED if end.code else FINISHED
        raise
    except BaseException as error:
        if run:
            run.set_tags({"error": f"{type(error).__name__}: {error}"[:500]})
        raise
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        if run:
            run.end(status)
        if shared:
            shared.leave(stage, status)
        elif store and parent:
            close_parent(store.uri, parent, status)


@dataclass(frozen=True)
class _Shared:
    """This stage's side of the session that one `dvc repro` shares."""

    file: SessionFile
    owner: Process

    def enter(self, stage: str, wants_ray: bool) -> None:
        """Sign in; start the host when there is none, or when it has died."""
        with self.file.edit(self.owner) as state:
            if state.host is None or not state.host.alive():
                # written first: the host refuses to serve a session that it does not find
                self.file.write(state)
                state.host = spawn(self.file, self.owner)
                state.ray_address = state.ray_error = None
            state.wants_ray = state.wants_ray or wants_ray
            state.running[stage] = Process.of(os.getpid())

    def leave(self, stage: str, status: str) -> None:
        with self.file.edit(self.owner) as state:
            state.running.pop(stage, None)
            state.ended[stage] = status

    def parent(self, store: Store, params: Params, tags: Mapping[str, str]) -> str:
        """The parent run; started by the first stage to come here."""
        with self.file.edit(self.owner) as state:
            if state.parent_run_id is None:
                self._close_stale()
                state.tracking_uri = store.uri
                state.parent_run_id = store.start_parent("dvc repro", params, tags)
            return state.parent_run_id

    def ray_address(self) -> str:
        """Wait for the host's Ray head."""
        deadline = time.monotonic() + RAY_TIMEOUT
        while time.monotonic() < deadline:
            state = self.file.read()
            if state and state.ray_address:
                return state.ray_address
            if state is None or state.host is None or not state.host.alive():
                raise SessionError(f"the session's host process died\n{self._log_tail()}")
            if state.ray_error:
                raise SessionError(f"Ray did not start: {state.ray_error}\n{self._log_tail()}")
            time.sleep(0.1)
        raise SessionError(f"Ray did not start within {RAY_TIMEOUT:.0f} s\n{self._log_tail()}")

    def _close_stale(self) -> None:
        """Close what a host that was itself killed could not."""
        for path in self.file.path.parent.glob("session-*.json"):
            stale = SessionFile(path)
            state = stale.read()
            if state is None or state.owner.alive() or (state.host and state.host.alive()):
                continue
            if state.tracking_uri and state.parent_run_id:
                try:
                    close_parent(state.tracking_uri, state.parent_run_id, KILLED)
                except Exception as error:  # a store that was deleted meanwhile has nothing to close
                    logger.debug("stale session %s: %s", path.name, error)
            stale.remove(log=True)

    def _log_tail(self) -> str:
        try:
            lines = self.file.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return f"{self.file.log} does not exist"
        return "\n".join([f"the end of {self.file.log}:", *lines[-20:]])


def _connect(cluster: str | None, shared: _Shared | None, root: Path) -> None:
    if not cluster and not shared:
        start_head(root)
        return
    import ray

    address = cluster or (shared.ray_address() if shared else "auto")
    ray.init(address=address, logging_level=logging.WARNING)
    logger.info("joined Ray at %s", address)

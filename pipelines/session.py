"""What every stage opens first: the Ray head and the MLflow runs it belongs to.

    def work(session: Session) -> None:
        ...
        session.log_metrics({"faces": count})

    run_stage("synthesize", work)

Under `dvc repro` all stages share one Ray head and one MLflow parent run, kept by `pipelines.host`. Run by
hand, or as a Ray job, a stage has its own. RAY_ADDRESS=HOST:PORT joins a cluster instead, from one of its
machines; RAY_ADDRESS=http://HOST:8265 sends the stage there as a Ray job (`pipelines.jobs`).
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
from cfpp.storage import Place, check_writable, place_of
from pipelines.host import Process, SessionFile, find_owner, spawn, start_head
from pipelines.jobs import PARENT_RUN, check_place, check_reachable, in_job, job_server, run_job
from pipelines.mirror import THROUGHPUT, check_same, pull, push, stage_files
from pipelines.throughput import put

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
    "register": ("run", "mlflow", "weights"),
}


class SessionError(MendableError, RuntimeError):
    """The Ray head of this `dvc repro` could not be reached."""


@dataclass(frozen=True)
class Session:
    """An open stage: where the project is and where its records go."""

    stage: str
    params: Params
    root: Path
    storage: Place
    parent_run_id: str
    run: StageRun

    @property
    def elsewhere(self) -> bool:
        """Whether the storage is not the project's folder."""
        return self.storage != self.root.resolve()

    def shared(self, path: str | Path) -> str:
        """Where every worker finds a model folder of the project; copied there if that is elsewhere."""
        if self.elsewhere:
            push(self.storage, self.root, (str(path),))
        return str(self.storage / path)

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

    def log_speed(self, figures: Mapping[str, float]) -> None:
        """Log how fast the stage ran, to MLflow and to its entry in reports/throughput.json."""
        self.log_metrics(figures)
        if self.elsewhere:  # a job's own folder has no entries of other stages
            pull(self.storage, self.root, [THROUGHPUT])
        put(self.root / THROUGHPUT, self.stage, figures)
        if self.elsewhere:
            push(self.storage, self.root, [THROUGHPUT])

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Upload a file, or a folder with all it holds, to the stage's run."""
        self.run.log_artifact(path, folder)

    def log_image(self, name: str, picture: np.ndarray, step: int | None = None) -> None:
        """Log a picture, uint8 [H, W, 3] RGB."""
        self.run.log_image(name, picture, step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.run.set_tags(tags)


def run_stage(
    stage: str, work: Callable[[Session], None], *, ray: bool | Callable[[Params], bool] = True
) -> None:
    """A stage's `main`: log, params.yaml, session or Ray job, and one line for what a person can mend.

    Args:
        stage: its name in dvc.yaml.
        work: what it does.
        ray: whether it uses Ray, or what tells by the params.

    Raises:
        SystemExit: with that line.
    """
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        params, root = load_params(), Path.cwd()
        uses_ray = ray(params) if callable(ray) else ray
        if address := job_server():
            with _parent(stage, params, root, wants_ray=False) as parent:
                run_job(stage, params, root, address, parent.run_id, in_driver=not uses_ray)
            return
        with stage_session(stage, params, uses_ray) as session:
            files = stage_files(stage, root)
            if session.elsewhere:
                check_same(session.storage, root, files.deps)
                pull(session.storage, root, files.deps)
            start = time.monotonic()
            work(session)
            session.log_speed({"stage_seconds": time.monotonic() - start})
            if session.elsewhere:
                push(session.storage, root, files.outs)
                pull(session.storage, root, [path for path in files.outs if path.startswith("data")])
    except MendableError as error:
        raise SystemExit(f"{stage}: {error}") from error


@contextmanager
def stage_session(stage: str, params: Params, ray: bool) -> Iterator[Session]:
    """Open the stage's nested MLflow run and, if it uses `ray`, connect to Ray.

    The run ends FINISHED, FAILED (an exception leaves the block) or KILLED (Ctrl-C).

    Raises:
        SessionError: Ray cannot be reached, or the host could not start it in time; the message shows the end
            of its log.
        StorageError: storage.root cannot be written to.
    """
    root, cluster = Path.cwd(), os.environ.get("RAY_ADDRESS")
    storage = place_of(params.storage.root, root)
    check_place(params, root)
    check_writable(storage)
    with _parent(stage, params, root, wants_ray=ray and not cluster) as parent:
        run = parent.store.start_stage(stage, parent.run_id, parent.tags)
        with _ending(run.end):
            try:
                sections = _SECTIONS.get(stage, ("run",))
                run.log_params({name: to_dict(getattr(params, name)) for name in sections})
                if ray:
                    _connect(cluster, parent.shared, root, storage != root.resolve())
                yield Session(stage, params, root, storage, parent.run_id, run)
                tags = lineage(params, root)  # the stage may have made what the first tags could not name
                for run_id in (run.run_id, parent.run_id):
                    set_tags(parent.store.uri, run_id, tags)
            except Exception as error:
                run.set_tags({"error": f"{type(error).__name__}: {error}"[:500]})
                raise
            finally:
                if "ray" in sys.modules:
                    sys.modules["ray"].shutdown()


@dataclass(frozen=True)
class _Parent:
    """The MLflow run that the stages of one `dvc repro` have in common."""

    store: Store
    run_id: str
    tags: Mapping[str, str]
    shared: "_Shared | None"


@contextmanager
def _parent(stage: str, params: Params, root: Path, wants_ray: bool) -> Iterator[_Parent]:
    """The parent run: of whoever submitted this job, of this `dvc repro`, or the stage's own."""
    owner, given = find_owner(), os.environ.get(PARENT_RUN)
    shared = _Shared(SessionFile.of(owner, root), owner) if owner else None
    if shared:
        shared.enter(stage, wants_ray)
    opened: list[tuple[str, str]] = []  # tracking URI and run to be closed

    def end(status: str) -> None:
        if shared:
            shared.leave(stage, status)
        for uri, run_id in opened:
            close_parent(uri, run_id, status)

    with _ending(end):
        store = Store.open(params.mlflow, root)
        tags = lineage(params, root)
        if given:
            run_id = given
        elif shared:
            run_id = shared.parent(store, params, tags)
        else:
            run_id = store.start_parent(stage, params, tags)
            opened.append((store.uri, run_id))
        yield _Parent(store, run_id, tags, shared)


@contextmanager
def _ending(end: Callable[[str], None]) -> Iterator[None]:
    """Tell `end` how the block ended, as MLflow says it."""
    status = FAILED
    try:
        yield
        status = FINISHED
    except KeyboardInterrupt:
        status = KILLED
        raise
    except SystemExit as stop:
        status = FAILED if stop.code else FINISHED
        raise
    finally:
        end(status)


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


def _connect(cluster: str | None, shared: _Shared | None, root: Path, elsewhere: bool) -> None:
    if not cluster and not shared:
        start_head(root)
        return
    import ray

    if cluster and ":" in cluster:
        check_reachable(cluster)
    address = cluster or (shared.ray_address() if shared else "auto")
    # A job's code is on all nodes already, and our own host's workers find it by PYTHONPATH.
    code = {"working_dir": str(root)} if cluster and not in_job() else None
    ray.init(address=address, logging_level=logging.WARNING, runtime_env=code)
    if in_job() and not elsewhere and len([node for node in ray.nodes() if node["Alive"]]) > 1:
        raise SessionError(
            "storage.root: is empty, but the nodes of this cluster share no folder with a Ray job; name an "
            "absolute folder that they share, or s3://bucket/prefix"
        )
    logger.info("joined Ray at %s", address)

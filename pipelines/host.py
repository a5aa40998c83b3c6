"""The process that stands behind one `dvc repro`: it holds the Ray head and closes the MLflow parent run.

The stages of a `dvc repro` are separate processes, but they belong to one dvc process, the owner. The first
stage starts `python -m pipelines.host` detached; the host starts Ray when a stage asks for it, lives until
the owner is gone, ends stages that a killed dvc left behind, and closes the parent run. They speak through
one small file, `.cfpp/session-<owner pid>-<owner start>.json`, replaced atomically under a lock.
"""

import argparse
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock

from cfpp.registry.runs import FAILED, FINISHED, KILLED, close_parent

logger = logging.getLogger("pipelines.host")

POLL = 0.25  # seconds between two looks at the owner and the session file
HEAD_ATTEMPTS = 3  # a busy machine may not start a head within the time that Ray allows
OBJECT_STORE = 1 << 30  # bytes; shards pass through worker memory, the store carries only rows of manifests


@dataclass(frozen=True)
class Process:
    """A process by pid and start time (seconds since the epoch), so that a reused pid is not mistaken."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Raises psutil.NoSuchProcess when there is none."""
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            # the start time moves a little when the system clock is adjusted
            return abs(process.create_time() - self.started) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass
class SessionState:
    """What the stages of one `dvc repro` and their host know of each other."""

    owner: Process
    host: Process | None = None
    wants_ray: bool = False
    ray_address: str | None = None
    ray_error: str | None = None
    tracking_uri: str | None = None
    parent_run_id: str | None = None
    running: dict[str, Process] = field(default_factory=dict)  # stages, by name
    ended: dict[str, str] = field(default_factory=dict)  # status by stage

    @classmethod
    def parse(cls, text: str) -> "SessionState":
        tree = json.loads(text)
        tree["owner"] = Process(**tree["owner"])
        tree["host"] = tree["host"] and Process(**tree["host"])
        tree["running"] = {stage: Process(**process) for stage, process in tree["running"].items()}
        return cls(**tree)

    def status(self) -> str:
        """Status of the parent run, once the owner is gone."""
        statuses = set(self.ended.values())
        statuses |= {KILLED if process.alive() else FAILED for process in self.running.values()}
        return FAILED if FAILED in statuses else KILLED if KILLED in statuses else FINISHED


@dataclass(frozen=True)
class SessionFile:
    """The session file of one owner in the folder `.cfpp` of the project."""

    path: Path

    @classmethod
    def of(cls, owner: Process, root: Path) -> "SessionFile":
        return cls(root / ".cfpp" / f"session-{owner.pid}-{int(owner.started)}.json")

    @property
    def log(self) -> Path:
        return self.path.with_name(self.path.name.replace("session-", "host-")).with_suffix(".log")

    def read(self) -> SessionState | None:
        """The state last written, or None when there is no session."""
        try:
            return SessionState.parse(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    @contextmanager
    def edit(self, owner: Process) -> Iterator[SessionState]:
        """Read, change and replace the state, alone; a session that does not exist yet is opened."""
        self.path.parent.mkdir(exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            state = self.read() or SessionState(owner)
            yield state
            self.write(state)

    def write(self, state: SessionState) -> None:
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(dataclasses.asdict(state), indent=1), encoding="utf-8")
        temporary.replace(self.path)

    def remove(self, *, log: bool) -> None:
        """Forget the session; the host's log is kept where it may explain a failure."""
        for path in (self.path, self.path.with_suffix(".lock"), *([self.log] if log else [])):
            path.unlink(missing_ok=True)


def find_owner() -> Process | None:
    """The nearest ancestor of this process that is dvc; None when a person or a Ray job runs the stage."""
    for process in psutil.Process().parents():
        try:
            if _is_dvc(process.cmdline()):
                return Process(process.pid, process.create_time())
        except psutil.Error:  # gone meanwhile, or not ours to look at
            continue
    return None


def _is_dvc(command: list[str]) -> bool:
    # dvc repro | python [flags] .../bin/dvc repro | python -m dvc repro; not: an editor on a folder named dvc
    names = [Path(word).name for word in command[:5]]
    program = names[0] if names else ""
    return program in ("dvc", "dvc.exe") or (program.startswith("python") and "dvc" in names[1:])


def spawn(file: SessionFile, owner: Process) -> Process:
    """Start the host of a session, detached from the terminal and from the stage that starts it."""
    with file.log.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.host", "--owner", str(owner.pid), "--session", str(file.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=file.path.parent.parent,
            env=_environment(file.path.parent.parent),
        )
    return Process.of(child.pid)


def start_head(root: Path) -> str:
    """Start a Ray head on this machine, owned by this process; returns its address."""
    os.environ.update(_environment(root))  # inherited by every worker
    import ray

    available = int(psutil.virtual_memory().available)
    for attempt in range(1, HEAD_ATTEMPTS + 1):
        try:
            context = ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=max(min(OBJECT_STORE, available // 5), 128 << 20),
                logging_level=logging.WARNING,
            )
            break
        except Exception as error:  # Ray raises no type of its own for a start that took over 30 seconds
            ray.shutdown()
            if attempt == HEAD_ATTEMPTS:
                raise
            logger.warning("Ray did not start, trying again: %s", error)
    return str(context.address_info["address"])


def _environment(root: Path) -> dict[str, str]:
    paths = [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def serve(file: SessionFile, owner: Process) -> None:
    """Keep the session until the owner is gone, then close it."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    while owner.alive() and not stop:
        state = file.read()
        if state and state.wants_ray and not (state.ray_address or state.ray_error):
            _serve_ray(file, owner)
            signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))  # Ray set its own
        time.sleep(POLL)
    state = file.read()
    if state is None:
        return
    status = state.status()
    logger.info("the owner is gone, closing the session: %s", status)
    _end_stages(list(state.running.values()))
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    if state.tracking_uri and state.parent_run_id:
        close_parent(state.tracking_uri, state.parent_run_id, status)
    file.remove(log=status == FINISHED)


def _serve_ray(file: SessionFile, owner: Process) -> None:
    address = error = None
    try:
        address = start_head(file.path.parent.parent)
    except Exception as failure:
        logger.exception("Ray did not start")
        error = f"{type(failure).__name__}: {failure}"
    with file.edit(owner) as state:
        state.ray_address, state.ray_error = address, error


def _end_stages(processes: list[Process]) -> None:
    """End stages that outlived dvc: two of them must never write the same shards."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.alive():
                logger.warning("ending the orphaned stage, process %d", process.pid)
                os.kill(process.pid, number)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(process.alive() for process in processes):
            time.sleep(POLL)


def main() -> None:
    parser = argparse.ArgumentParser(description="Hold the Ray head and the parent run of one dvc repro.")
    parser.add_argument("--owner", type=int, required=True, help="pid of the dvc process")
    parser.add_argument("--session", type=Path, required=True, help="session file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    file = SessionFile(arguments.session)
    state = file.read()
    if state is None or state.owner.pid != arguments.owner:
        parser.error(f"{arguments.session} is no session of process {arguments.owner}")
    serve(file, state.owner)


if __name__ == "__main__":
    main()

"""`dvc repro` as a child of `retrain`: started, watched, ended, and found again after a kill.

The child writes to a file of its own, so that it goes on when the start that began it is killed. Everything
below it carries the project's folder in an environment variable, by which the next start finds what is left.
"""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cfpp.errors import MendableError
from cfpp.files import replacing
from pipelines.host import Process
from pipelines.retrain_state import Child

log = logging.getLogger("pipelines.retrain")

MARK = "CFPP_RETRAIN"  # environment variable: the folder whose retrain started a process
LOGS = Path(".cfpp")
KEPT_LOGS = 10
POLL = 0.25  # seconds
PATIENCE = 90.0  # seconds in which an interrupted graph ends; a stage that is a Ray job takes 60 to stop it
CLOSING = 60.0  # seconds in which the host of a graph that was killed ends its stages and closes its runs

_DVC_LOCK, _DVC_LOCK_COPY = Path("dvc.lock"), Path(".cfpp/dvc.lock")
_DVC_LOCK_CUT = Path(".cfpp/dvc.lock.cut")
_RWLOCK = Path(".dvc/tmp/rwlock")


class ReproError(MendableError, RuntimeError):
    """The graph did not run through; the message names the stage, the log and what dvc said."""


@dataclass(frozen=True)
class Repro:
    """Runs dvc in a project, one at a time.

    Attributes:
        record: is told of every child at its start, and None at its end.
        alive: is called a few times a second meanwhile.
    """

    root: Path
    log: Path
    record: Callable[[Child | None], None]
    alive: Callable[[], None]

    def run(self, *words: str) -> None:
        """Run `dvc WORDS` to its end; Ctrl-C and SIGTERM end it as Ctrl-C on a terminal would.

        Raises:
            ReproError: it failed.
            KeyboardInterrupt: it was ended.
        """
        mend(self.root)
        self._drop_old_logs()
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dvc", *words],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=self._environment(),
            )
        try:
            child = Process.of(process.pid)
            self.record(Child(socket.gethostname(), child, str(self.log)))
            tail = _Tail(self.log, start)
            while process.poll() is None:
                tail.show()
                self.alive()
                time.sleep(POLL)
            tail.show()
        except BaseException:
            end(process.pid, lambda: process.poll() is None)
            raise
        self.record(None)
        if process.returncode:
            raise ReproError(explain(self.log, start, f"dvc {' '.join(words)}", process.returncode))

    def _drop_old_logs(self) -> None:
        self.log.parent.mkdir(exist_ok=True)
        others = set(self.log.parent.glob("retrain-*.log")) - {self.log}
        for old in sorted(others, key=lambda path: path.stat().st_mtime)[: 1 - KEPT_LOGS]:
            old.unlink()

    def _environment(self) -> dict[str, str]:
        # `python` in dvc.yaml is this one, also where cron started it with a PATH of its own
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PATH": path, MARK: str(self.root.resolve())}

    def settle(self, recorded: Child | None) -> None:
        """Leave nothing running that an earlier start, which was killed, has begun.

        A graph that still runs is waited for: it does what this start would do, and none of it is lost.
        """
        orphan = self._orphan(recorded)
        if orphan is not None:
            log.warning("the dvc of an earlier start still runs, process %d: waiting for it", orphan.pid)
            path = Path(recorded.log) if recorded else self.log
            tail = _Tail(path, path.stat().st_size if path.exists() else 0)
            try:
                while orphan.alive():
                    tail.show()
                    self.alive()
                    time.sleep(POLL)
            except BaseException:
                end(orphan.pid, orphan.alive)
                raise
        deadline = time.monotonic() + CLOSING
        while (left := marked(self.root)) and time.monotonic() < deadline:
            self.alive()
            time.sleep(POLL)
        for process in left:
            log.warning("ending what an earlier start has left: process %d, %s", process.pid, _title(process))
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        self.record(None)

    def _orphan(self, recorded: Child | None) -> Process | None:
        if recorded and recorded.host == socket.gethostname() and recorded.process.alive():
            return recorded.process
        for process in marked(self.root):  # killed before it could write down which process it had started
            with suppress(psutil.Error):
                if "dvc" in process.cmdline()[1:3]:
                    return Process.of(process.pid)
        return None


class _Tail:
    """Shows what is appended to a file."""

    def __init__(self, path: Path, position: int) -> None:
        self.path, self.position = path, position

    def show(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            text = file.read()
        self.position += len(text)
        with suppress(OSError):  # whoever watched has gone
            sys.stderr.write(text.decode("utf-8", "replace"))
            sys.stderr.flush()


def marked(root: Path) -> list[psutil.Process]:
    """The processes, of this user on this machine, that a retrain of the project has started."""
    own, found = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}, []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == str(root.resolve()):
                found.append(process)
    return found


def end(leader: int, alive: Callable[[], bool]) -> None:
    """End a process group as Ctrl-C does; by force when that takes too long, or at a second Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            with suppress(ProcessLookupError):
                os.killpg(leader, number)
            deadline = time.monotonic() + PATIENCE
            while alive() and time.monotonic() < deadline:
                time.sleep(POLL)
            if not alive():
                return
            log.warning("process %d has not ended within %.0f s", leader, PATIENCE)
        except KeyboardInterrupt:
            log.warning("interrupted again: not waiting for process %d", leader)


def explain(path: Path, start: int, command: str, code: int) -> str:
    """What a failed dvc's log says of it: the stage, and dvc's own words."""
    text = path.read_bytes()[start:].decode("utf-8", "replace")
    stages = re.findall(r"Running stage '([^']+)'", text)
    failed = re.search(r"failed to reproduce '([^']+)'", text)
    stage = failed[1] if failed else stages[-1] if stages else ""
    said = [line for line in text.splitlines() if line.startswith("ERROR")]
    where = f"stage {stage}" if stage else "before any stage"
    return f"{where}: {command} ended with {code}" + "".join(f"; {line}" for line in said[-2:])


def log_path(root: Path, name: str) -> Path:
    """Where the graph's output of an attempt goes."""
    return root / LOGS / f"retrain-{name}.log"


def mend(root: Path) -> None:
    """Put right what a dvc that was killed may leave in a way that the next one refuses.

    dvc writes dvc.lock and its rwlock in place, so a kill may cut them short; and it takes a rwlock of a
    process whose number another one has by now for held. Call it while no dvc of this project runs.
    """
    lock, copy = root / _DVC_LOCK, root / _DVC_LOCK_COPY
    if lock.exists():
        if _sound(lock):
            with replacing(copy) as partial:
                partial.write_bytes(lock.read_bytes())
        else:
            with replacing(root / _DVC_LOCK_CUT) as partial:
                partial.write_bytes(lock.read_bytes())
            instead = "taking the one of before" if copy.exists() else "dvc makes another"
            log.warning("%s was cut short by a kill: kept as %s, %s", lock, _DVC_LOCK_CUT, instead)
            if copy.exists():
                with replacing(lock) as partial:
                    partial.write_bytes(copy.read_bytes())
            else:
                lock.unlink()
    rwlock = root / _RWLOCK
    if rwlock.exists() and not any(_is_dvc(pid) for pid in _holders(rwlock)):
        rwlock.unlink()


def _sound(lock: Path) -> bool:
    """Whether a dvc.lock is whole, as far as can be seen.

    It ends with a line's end, dvc can read it, it has a stage, and every file or folder in it has its hash. A
    file that was cut right behind an entry passes: then all that it says is true, and the stage that it
    breaks off in, and those that follow, are as if they had not been run.
    """
    from dvc.schema import CHECKSUMS_SCHEMA, COMPILED_LOCKFILE_SCHEMA
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from voluptuous import Invalid

    try:
        text = lock.read_text(encoding="utf-8")
        tree = COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))
    except (ValueError, YAMLError, Invalid):
        return False
    stages = tree.get("stages", {}).values()  # a file without any is of no use, and dvc writes none
    entries = [entry for stage in stages for kind in ("deps", "outs") for entry in stage.get(kind, ())]
    # what a cloud has a version of, or is a data set, has its hash elsewhere
    hashed = {*map(str, CHECKSUMS_SCHEMA), "cloud", "files", "dataset"}
    return text.endswith("\n") and bool(stages) and all(hashed & entry.keys() for entry in entries)


def _holders(rwlock: Path) -> Sequence[int]:
    """The processes that a rwlock names; none where it was cut short."""
    try:
        tree = json.loads(rwlock.read_text(encoding="utf-8"))
        written = list(tree.get("write", {}).values())
        read = [entry for entries in tree.get("read", {}).values() for entry in entries]
        return [int(entry["pid"]) for entry in (*written, *read)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _is_dvc(pid: int) -> bool:
    with suppress(psutil.Error):
        return any(Path(word).name == "dvc" for word in psutil.Process(pid).cmdline()[:5])
    return False


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:100]
    return "gone"

"""The lock of `retrain`: one start at a time in a project, whichever machine it is on.

`.cfpp/retrain.lock` says who holds it. Taking it, taking it over and giving it back happen under a file lock
of the operating system, so of two starters that find the same stale lock one gets it and the other is
refused. The folder must be on a disk, or a network file system, that has such locks.
"""

import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from cfpp.errors import MendableError
from cfpp.files import replacing
from pipelines.host import Process

log = logging.getLogger("pipelines.retrain")

LOCK = Path(".cfpp/retrain.lock")
SIGN_EVERY = 30.0  # seconds between two signs of life


class LockedError(MendableError, RuntimeError):
    """Another start of retrain is at work; the message says whose and for how long."""


@dataclass(frozen=True)
class Owner:
    """Who holds the lock.

    Attributes:
        since: when it was taken, seconds since the epoch.
        token: of this very start.
    """

    host: str
    user: str
    process: Process
    since: float
    token: str

    @classmethod
    def me(cls) -> "Owner":
        return cls(socket.gethostname(), _user(), Process.of(os.getpid()), time.time(), uuid.uuid4().hex)

    def __str__(self) -> str:
        who = f"process {self.process.pid} of {self.user} on {self.host}"
        return f"{who}, since {age(time.time() - self.since)}"


@dataclass
class Lock:
    """The lock, held."""

    path: Path
    owner: Owner
    signed: float = 0.0

    def sign(self) -> None:
        """Give a sign of life, now and then; for whoever looks at the lock from another machine.

        Raises:
            LockedError: somebody else has taken the lock over.
        """
        if time.monotonic() - self.signed < SIGN_EVERY:
            return
        self.signed = time.monotonic()
        self.check()
        os.utime(self.path)

    def check(self) -> None:
        """See whether it is still this start's.

        Raises:
            LockedError: somebody else has taken the lock over.
        """
        found = read(self.path)
        if found is None or found.token != self.owner.token:
            raise LockedError(f"{self.path}: the lock is no longer this start's, but held by {found}")

    @contextmanager
    def signing(self) -> Iterator[None]:
        """Give the signs of life from a thread, while the block does something long that gives none.

        Raises:
            LockedError: somebody else has taken the lock over, before the block or in it.
        """
        over = threading.Event()

        def give() -> None:
            while not over.wait(SIGN_EVERY / 2):
                try:
                    self.sign()
                except LockedError:
                    return  # the block's end says so
                except OSError as error:
                    log.warning("%s: no sign of life: %s", self.path, error)

        self.signed = 0.0
        self.sign()
        thread = threading.Thread(target=give, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.check()


@contextmanager
def held(root: Path, stale_after_hours: float) -> Iterator[Lock]:
    """Hold the project's lock while the block runs.

    Args:
        stale_after_hours: a lock of another machine, whose processes cannot be seen from here, is stale when
            it has given no sign of life for so long.

    Raises:
        LockedError: somebody else holds it.
    """
    path = root / LOCK
    path.parent.mkdir(exist_ok=True)
    guard = FileLock(path.with_suffix(".guard"), timeout=60)
    owner = Owner.me()
    with guard:
        found = read(path)
        if found is not None:
            why = _stale(found, path, stale_after_hours)
            if not why:
                raise LockedError(f"{path}: another retrain is at work: {found}")
            log.warning("taking over the lock of %s: %s", found, why)
        with replacing(path) as partial:
            partial.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    try:
        yield Lock(path, owner)
    finally:
        with guard:
            found = read(path)
            if found is not None and found.token == owner.token:
                path.unlink()


def read(path: Path) -> Owner | None:
    """The owner that a lock file names; None when there is no lock.

    Raises:
        LockedError: the file is no lock.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Owner(**(tree | {"process": Process(**tree["process"])}))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise LockedError(f"{path}: cannot be read; make sure that no retrain runs and remove it") from None


def age(seconds: float) -> str:
    """For people: 40 s, 12 min, 3.5 h or 2.1 days."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def _stale(owner: Owner, path: Path, hours: float) -> str:
    """Why the lock no longer counts; "" where it does."""
    if owner.host == socket.gethostname():
        return "" if owner.process.alive() else "its process is gone"
    silent = time.time() - path.stat().st_mtime
    return f"no sign of life for {age(silent)}" if silent > hours * 3600 else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())

"""A real S3 server in a process of its own, behind a door that a test can shut for a while."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BUCKET = "faces"


class Door:
    """Passes connections on to the server; shut, it refuses new ones and cuts those there are."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                pair = (client, socket.create_connection(("127.0.0.1", self.target)))
                self._pairs.append(pair)
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, two: socket.socket) -> None:
        other = {one: two, two: one}
        with suppress(OSError, ValueError):
            while True:
                for ready in select.select([one, two], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        raise OSError("closed")
                    other[ready].sendall(data)
        for end in (one, two):
            with suppress(OSError):
                end.close()


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and what the environment of its users must say."""

    door: Door
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.door.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def s3_server(folder: Path, extra: Mapping[str, str] | None = None) -> Iterator[S3Server]:
    """Start it, with the bucket `BUCKET`; `extra` goes into its environment."""
    import pyarrow.fs

    port, log = free_port(), folder / "s3.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=stream,
            stderr=stream,
            env={**os.environ, **(extra or {})},
        )
    try:
        wait_for(port, process, log)
        maker = pyarrow.fs.S3FileSystem(
            access_key="test",
            secret_key="test",
            region="us-east-1",
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            allow_bucket_creation=True,
        )
        maker.create_dir(BUCKET)
        door = Door(port)
        yield S3Server(door, log)
        door.shut()
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}")

"""A copy of the repository's files with a git history of its own, in which commands run for real."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class Project:
    """The copy, in a folder that is made here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if (REPOSITORY / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, folder / name)
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "Start"]):
            subprocess.run(["git", *command], cwd=folder, check=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of commands that are run in it: its own code, this interpreter's programs."""
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return inherited | {"PATH": path, "PYTHONPATH": str(self.folder)}

    def start(self, *command: str, **variables: str) -> "subprocess.Popen[str]":
        """Start a command in it, with both of its outputs in one pipe and in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, code: int = 0, **variables: str) -> str:
        """Run a command that must end with `code`; returns what it wrote."""
        process = self.start(*command, **variables)
        text, _ = process.communicate()
        assert process.returncode == code, f"{command} ended with {process.returncode}: {text[-6000:]}"
        return text

    def repro(self) -> list[str]:
        """Run `dvc repro`; returns the stages that ran."""
        run = subprocess.run(
            ["dvc", "repro"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, (run.stdout + run.stderr)[-6000:]
        return [line.split("'")[1] for line in run.stdout.splitlines() if line.startswith("Running stage")]

    def json(self, name: str) -> dict:
        loaded: dict = json.loads((self.folder / name).read_text())
        return loaded

    def sql(self, query: str) -> list[tuple]:
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            return connection.execute(query).fetchall()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

"""A DVC experiment in a folder of its own, so that the project stays as it is, whatever becomes of it.

The folder is a copy of the project: code as it lies there, committed or not; data and models as hard links,
which stages replace and never write into; the folder of training runs itself, so that a training that anybody
has finished is not done again. `dvc exp run` then does what the overrides have changed. The experiment's
commit goes to the project's git and its models to the project's DVC cache: `dvc exp show` lists it there.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ruamel.yaml import YAML

from cfpp.config import Params, ParamsError, load_params, parse_params, to_dict
from cfpp.errors import MendableError
from cfpp.lineage import UNKNOWN, file_hash
from cfpp.registry.runs import absolute_uri
from pipelines.host import SessionFile
from pipelines.mirror import MADE

log = logging.getLogger(__name__)

FOLDER = Path(".cfpp/ablations")
RUNS, ARTIFACTS = "runs", "mlartifacts"
LAST_STAGE = "evaluate"  # nothing is registered
HOST_TIMEOUT = 60.0  # seconds
_PROGRESS = re.compile(r"cfpp\.progress: |.*\d%\|")  # our lines and tqdm's
_UNTRACKED = ("cfpp", "pipelines", "dvc.yaml", "dvc.lock", "params.yaml")  # taken along, known to git or not


class ExperimentError(MendableError, RuntimeError):
    """An experiment cannot start, or its run failed."""


@dataclass(frozen=True)
class Experiment:
    """The graph with some params changed.

    Attributes:
        name: of the DVC experiment.
        overrides: dotted keys and values, as YAML gives them.
    """

    name: str
    overrides: Mapping[str, Any]


@contextlib.contextmanager
def alone(root: Path) -> Iterator[int]:
    """Keep others from making experiments here; gives the lock's file descriptor.

    A `dvc exp run` that outlives its parent inherits the lock, so nobody clears its folder away.

    Raises:
        ExperimentError: somebody else is at it.
    """
    path = root / FOLDER / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExperimentError(f"{path}: experiments are being run here; wait for them to end") from None
        yield file.fileno()


def overridden(root: Path, overrides: Mapping[str, Any]) -> Params:
    """The project's params with some changed.

    Raises:
        ParamsError: a key is unknown, or a value does not fit.
    """
    tree = YAML(typ="safe").load((root / "params.yaml").read_text(encoding="utf-8"))
    for key, value in overrides.items():
        *above, last = key.split(".")
        section = tree
        for name in above:
            section = section.get(name, {})
        if last not in section:
            raise ParamsError(f"params.yaml: unknown key {key}")
        section[last] = value
    try:
        return parse_params(tree)
    except ParamsError as error:
        raise ParamsError(f"{root / 'params.yaml'}, with {dict(overrides)}: {error}") from None


def identity(root: Path, params: Params) -> str:
    """sha256, hex, of what decides an experiment's result: params, code of the graph, what it starts from.

    Code is all that the stages up to the evaluation name among their dependencies, as DVC sees it.
    """
    digest = hashlib.sha256()
    parts = {name: part for name, part in to_dict(params).items() if name != "mlflow"}
    digest.update(json.dumps([parts, made_from(root)], sort_keys=True).encode())
    graph = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {dep for stage, section in graph.items() if stage != "register" for dep in section["deps"]}
    files = {
        file
        for dep in named
        if Path(dep).parts[0] not in MADE
        for file in ([root / dep] if (root / dep).is_file() else (root / dep).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }
    for file in sorted(files):
        digest.update(f"\n{file.relative_to(root)} {file_hash(file)}".encode())
    return digest.hexdigest()


def made_from(folder: Path) -> dict[str, str]:
    """What the results in a project or a copy were made from, as far as it is there: a thing and its name.

    DVC does not see it when pictures or weights are replaced that params name by their path. So this is read
    off what the stages wrote: sha256 of faces and restorations (their manifests) and of the prior, names of
    the networks in TGRN's losses and in the metrics.
    """
    config = _read_json(folder / "models/tgrn/card.json").get("config", {})
    instruments = _read_json(folder / "reports/metrics.json").get("instruments", {})
    found = {
        "data/shards": file_hash(folder / "data/shards/manifest.parquet"),
        "data/restored": file_hash(folder / "data/restored/manifest.parquet"),
        "models/prior": _read_json(folder / "models/prior/card.json").get("sha256"),
        "TGRN's perceptual loss": config.get("training", {}).get("perceptual"),
        "TGRN's identity loss": config.get("identity_loss"),
        # without the evaluation's note on networks that are a loss as well, which ablations change
        **{f"instrument of {metric}": name.partition(" (also")[0] for metric, name in instruments.items()},
    }
    return {what: name for what, name in found.items() if name not in (None, "none", UNKNOWN)}


def copy_project(source: Path, target: Path, root: Path) -> None:
    """Make `target` a copy of the project or copy in `source`; what is at `target` is removed.

    Args:
        source, target: folders; `target` is below `root`/.cfpp/ablations.
        root: the project, whose training runs, MLflow store and DVC cache are used.

    Raises:
        ExperimentError: the project has no commit, or a path of its params.yaml leads too far up.
    """
    clear(target)
    if _git(source, "rev-parse", "--verify", "-q", "HEAD") is None:
        raise ExperimentError(f"{source}: DVC's experiments need a git repository with a commit")
    _git(source, "clone", "-q", "--shared", "--no-checkout", ".", str(target), must=True)
    _git(target, "read-tree", "HEAD", must=True)
    tracked = _git(source, "ls-files", "-z", "--cached", must=True)
    others = _git(source, "ls-files", "-z", "--others", "--exclude-standard", "--", *_UNTRACKED, must=True)
    for name in filter(None, f"{tracked}{others}".split("\0")):
        if (source / name).is_file():  # what git tracks may have been removed
            _copy(source / name, target / name, shutil.copy2)
    for folder, how in (("data", _link), ("models", _link), ("reports", shutil.copy2)):
        if (source / folder).is_dir():
            ignored = shutil.ignore_patterns("ablations*", "*.lock")
            shutil.copytree(source / folder, target / folder, copy_function=how, ignore=ignored)
    links = [*_link_records(root, target), *_link_inputs(root, target)]
    with (target / ".git/info/exclude").open("a", encoding="utf-8") as file:
        file.writelines(f"/{link}\n" for link in links)
    _share_cache(source, target, root)


def run_experiment(folder: Path, root: Path, experiment: Experiment, log_file: Path, lock: int) -> None:
    """`dvc exp run` up to the evaluation, in a copy of the project; its commit goes to the project's git.

    Args:
        folder: the copy.
        root: the project.
        experiment: what to change.
        log_file: takes what the run writes.
        lock: file descriptor that the run inherits, see `alone`.

    Raises:
        ExperimentError: the run failed; says which stage, and why.
    """
    expected = overridden(folder, experiment.overrides)
    words = [f"--set-param={key}={_as_override(value)}" for key, value in experiment.overrides.items()]
    command = [sys.executable, "-m", "dvc", "exp", "run", "-n", experiment.name, *words, LAST_STAGE]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w", encoding="utf-8") as file:
        code = _stream(command, folder, {**os.environ, "PATH": path}, file, lock)
    if code:
        raise ExperimentError(f"{_reason(log_file, folder)} (exit code {code}, {log_file})")
    if load_params(folder / "params.yaml") != expected:
        raise ExperimentError(f"{experiment.name}: DVC read the overrides {words} as something else")
    refs = (_git(folder, "for-each-ref", "--format=%(refname)", "refs/exps", must=True) or "").split()
    for ref in refs:
        if ref.endswith(f"/{experiment.name}"):
            _git(root, "fetch", "-q", "--no-write-fetch-head", str(folder), f"+{ref}:{ref}", must=True)


def clear(folder: Path) -> None:
    """Remove a copy; the project's own files, which it links to, stay."""
    if folder.exists():
        shutil.rmtree(folder)


def _stream(command: Sequence[str], folder: Path, env: Mapping[str, str], file: IO[str], lock: int) -> int:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=[lock],
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            file.write(line)
            log.info("%s", line.rstrip())
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        _wait_for_host(folder)


def _wait_for_host(folder: Path) -> None:
    """Let the host of the run's session end stages left behind and Ray, and close the MLflow runs."""
    deadline = time.monotonic() + HOST_TIMEOUT
    while time.monotonic() < deadline:
        states = [SessionFile(path).read() for path in (folder / ".cfpp").glob("session-*.json")]
        if not any(state and state.host and state.host.alive() for state in states):
            return
        time.sleep(0.25)
    log.warning("%s: the host of its session has not ended in %.0f s", folder, HOST_TIMEOUT)


def _reason(log_file: Path, folder: Path) -> str:
    """What the stage that failed said in its last line, or else what DVC said; progress is no reason."""
    lines = [s for s in log_file.read_text(encoding="utf-8").splitlines() if not _PROGRESS.match(s)]
    graph = YAML(typ="safe").load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for pattern in (rf"(?:{'|'.join(graph)}): ", "ERROR: ", r"\S*(?:Error|Exception)\b"):
        said = [line for line in lines if re.match(pattern, line)]
        if said:
            return said[-1].strip()
    return lines[-1].strip() if lines else "the run said nothing"


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, {} where there is no file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _as_override(value: Any) -> str:
    """A value in the grammar of `dvc exp run -S`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_as_override, value))}]"
    return str(value)


def _link_records(root: Path, target: Path) -> Iterator[str]:
    """Give the copy the project's training runs and MLflow store; yields what it links."""
    names = [RUNS, ARTIFACTS]
    uri = load_params(target / "params.yaml").mlflow.tracking_uri
    if absolute_uri(uri, root) != uri:  # a file of the project
        names.append(uri.removeprefix("sqlite:///"))
    for folder in (RUNS, ARTIFACTS):
        (root / folder).mkdir(exist_ok=True)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(root / name)
        yield name


def _link_inputs(root: Path, target: Path) -> Iterator[str]:
    """Lead relative paths of the copy's params.yaml to where the project's lead; yields what it links."""

    def texts(tree: Any) -> Iterator[str]:
        for value in tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ():
            yield from ([value] if isinstance(value, str) else texts(value))

    for path in texts(to_dict(load_params(target / "params.yaml"))):
        link = Path(os.path.normpath(target / path))
        if not path or "://" in path or link.exists() or not (root / path).exists():
            continue
        if not link.is_relative_to(root / FOLDER):
            raise ExperimentError(f"params.yaml: {path} leads too far up for a copy; write an absolute path")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((root / path).resolve())
        if link.is_relative_to(target):
            yield link.relative_to(target).as_posix()


def _share_cache(source: Path, target: Path, root: Path) -> None:
    """Have the copy use the project's DVC cache, and its settings that git does not know."""
    own = source / ".dvc" / "config.local"
    if own.is_file():
        shutil.copy2(own, target / ".dvc")
    if source != root:  # a copy, whose settings say it already
        return
    dvc = [sys.executable, "-m", "dvc", "cache", "dir"]
    try:
        said = subprocess.run(dvc, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        place = str((root / said).resolve())
        subprocess.run([*dvc, "--local", place], cwd=target, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise ExperimentError(f"dvc cache dir: {error.stderr.strip()}") from error


def _copy(source: Path, target: Path, how: Any) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    how(source, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _git(folder: Path, *words: str, must: bool = False) -> str | None:
    """What git says; None where it fails, unless it `must` not."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and must:
        raise ExperimentError(f"git {words[0]}: {done.stderr.strip()}")
    return None if done.returncode else done.stdout

"""Whether what the project speaks to answers: Ray, and the tracking store with its registry."""

import base64
import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cfpp.config import Params
from cfpp.health.finding import Finding, ok, problem, warning
from cfpp.health.installation import INSTALL
from cfpp.registry.provenance import RegistryError, all_versions, package_cards
from cfpp.registry.runs import Store, absolute_uri
from cfpp.restoration.restorer import PARTS

PATIENCE = 5.0  # seconds that a server may take to answer
RAY_START = 90.0  # seconds that a local Ray may take to start; ten are usual on two cores

_SQLITE = "sqlite:///"
_LOCAL_RAY = (
    "import ray; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False); "
    "print('answer', ray.get(ray.remote(lambda: 6 * 7).remote()))"
)


def check_ray(address: str | None, start: bool) -> Finding:
    """Whether `address` answers, or Ray is there for a local cluster.

    Args:
        address: RAY_ADDRESS; None or "" for none.
        start: without an address, start a local Ray and run a task.
    """
    if importlib.util.find_spec("ray") is None:
        return problem("Ray", "is not installed", INSTALL)
    version = f"Ray {metadata.version('ray')}"
    if address and (":" in address):
        return _cluster(address, version)
    if address:
        return ok("Ray", f"{version}; RAY_ADDRESS={address} is Ray's own to resolve, not checked")
    if not start:
        return ok("Ray", f"{version}, on this machine; `cfpp doctor --ray` tries to start it")
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", _LOCAL_RAY]
    scratch = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())  # as Ray itself chooses
    look = f"look into {scratch / 'ray/session_latest/logs'}"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=RAY_START, check=False
        )
    except subprocess.TimeoutExpired:
        return problem("Ray", f"{version} did not start within {RAY_START:.0f} s", look)
    if "answer 42" in done.stdout:
        return ok("Ray", f"{version} started here and ran a task")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return problem("Ray", f"{version} does not start: {last}", look)


def _cluster(address: str, version: str) -> Finding:
    url = urlsplit(address if "://" in address else f"//{address}")
    dashboard = url.scheme in ("http", "https")
    try:
        if not dashboard:
            socket.create_connection((url.hostname or "", url.port or 0), timeout=PATIENCE).close()
        elif b'"ray_version"' not in _get(f"{address.rstrip('/')}/api/version"):
            raise ValueError("what answers is no dashboard of Ray's")
    except (OSError, ValueError) as error:
        return problem(
            "Ray",
            f"RAY_ADDRESS {address}: no cluster answers there: {error}",
            "start it (docs/cluster.md), open the tunnel to it, or unset RAY_ADDRESS to compute here",
        )
    if dashboard:
        return ok("Ray", f"{version}; a cluster answers at {address}")
    return ok("Ray", f"{version}; RAY_ADDRESS {address}: the port is open, what listens there is not checked")


def check_tracking(params: Params, root: Path) -> list[Finding]:
    """The tracking store: whether it answers, fits this MLflow, and has a champion. Nothing is written."""
    uri, subject = absolute_uri(params.mlflow.tracking_uri, root), "tracking store"
    if uri.startswith(("http://", "https://")):
        finding = _server(uri)
    elif uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        folder = Path(uri.removeprefix(_SQLITE)).parent
        if not folder.is_dir():
            return [problem(subject, f"{folder} is no folder", "mend mlflow.tracking_uri in params.yaml")]
        return [ok(subject, f"{uri} will be made by the first `dvc repro`")]
    else:
        finding = _database(uri)
    return [finding] if finding.remedy else [finding, check_champion(params, root)]


def _server(uri: str) -> Finding:
    try:
        healthy = _get(f"{uri.rstrip('/')}/health").strip() == b"OK"
    except urllib.error.HTTPError as error:
        return problem(
            "tracking store",
            f"mlflow.tracking_uri {uri} answers {error.code} {error.reason}",
            "is it an MLflow server? Set MLFLOW_TRACKING_USERNAME and _PASSWORD where it asks for them",
        )
    except (OSError, ValueError) as error:
        return problem(
            "tracking store",
            f"mlflow.tracking_uri {uri}: no tracking server answers there: {error}",
            "start the server, open the tunnel to it, or mend mlflow.tracking_uri",
        )
    if not healthy:
        return problem("tracking store", f"{uri} is no MLflow server", "mend mlflow.tracking_uri")
    return ok("tracking store", f"{uri} answers")


def _get(url: str) -> bytes:
    """What a GET of `url` gives, with the user and password in it sent as its clients send them.

    Raises:
        OSError: no answer, an error's, or one that is not HTTP.
        ValueError: a malformed address.
    """
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if user:
        credentials = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content: bytes = answer.read()
    except http.client.InvalidURL as error:
        raise ValueError(str(error)) from error
    except http.client.HTTPException as error:
        raise OSError(
            f"what answers speaks no HTTP ({type(error).__name__}: {str(error).strip()})"
        ) from error
    return content


def _database(uri: str) -> Finding:
    """A database that is spoken to directly: whether its schema is that of the installed MLflow."""
    import sqlalchemy
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    package = importlib.util.find_spec("mlflow.store.db_migrations")
    assert package is not None
    assert package.submodule_search_locations is not None
    expected = ScriptDirectory(package.submodule_search_locations[0]).get_current_head()
    try:
        engine = sqlalchemy.create_engine(uri)
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        return problem(
            "tracking store",
            f"mlflow.tracking_uri {uri}: {reason}",
            "expected sqlite:///FILE, another database's address, or http://HOST:PORT of an MLflow server",
        )
    if found is None:
        return problem("tracking store", f"{uri} is no MLflow database", "name another file, or remove it")
    if found != expected:
        return warning(
            "tracking store",
            f"{uri}: schema {found}, this MLflow's is {expected}",
            f"copy the database, then run `mlflow db upgrade {uri}` with the MLflow of this project",
        )
    return ok("tracking store", f"{uri}, schema up to date")


def check_champion(params: Params, root: Path) -> Finding:
    """Whether the registry has a champion, which `cfpp restore` and `cfpp demo` use, and its files."""
    name, store = params.mlflow.model_name, Store(absolute_uri(params.mlflow.tracking_uri, root), "")
    try:
        versions = all_versions(store, name)
    except RegistryError as error:
        return problem("champion", str(error), "mend mlflow.tracking_uri, or the store")
    champion = next((version for version in versions if "champion" in version.aliases), None)
    if champion is not None:
        parts = [part for part in PARTS if f"{part}.sha256" in champion.tags] or PARTS[1:]
        cards = package_cards(champion, parts)
        missing = [part for part in parts if part not in cards]
        if not missing:
            return ok("champion", champion.title)
        return problem(
            "champion",
            f"{champion.title}: of its files, those of {', '.join(missing)} cannot be fetched",
            "bring them back, or run `python -m pipelines.rollback --reason ...`",
        )
    if not versions:
        return warning("champion", f"no version of {name} yet", "run `dvc repro`")
    return warning(
        "champion",
        f"none; the newest is {versions[-1].title}",
        "run `python -m pipelines.promote`; until then name a model: `cfpp restore --model models`",
    )

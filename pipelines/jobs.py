"""A stage on a Ray cluster: submitted as a Ray job, watched until it ends, stopped with Ctrl-C.

    RAY_ADDRESS=http://HEAD:8265 dvc repro

The project's code and settings travel as the job's working_dir, filtered by .rayignore and .gitignore; what
the job writes goes to storage.root, and what DVC tracks of that is copied back here.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from cfpp.config import Params, ParamsError
from cfpp.errors import MendableError
from cfpp.lineage import GIT_COMMIT, git_commit, params_hash
from cfpp.storage import check_writable, place_of
from pipelines.mirror import THROUGHPUT, check_same, pull_all, stage_files

log = logging.getLogger(__name__)

PARENT_RUN = "CFPP_PARENT_RUN"  # environment variable: the MLflow run that a job's own belongs to
FORWARDED = (
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_TRACKING_USERNAME",
)
SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD")
SEND_SECRETS = (
    "CFPP_SEND_SECRETS"  # environment variable: set, jobs get `SECRET` too, for all who see the dashboard
)
LAST_LINES = 20
PATIENCE = 600.0  # seconds that the cluster may be out of sight
STOP_PATIENCE = 60.0  # seconds that a stopped job may take to end
# What a broken tunnel raises: requests' and aiohttp's errors, and what Ray makes of an answer that is none.
_CONNECTION = (OSError, RuntimeError, aiohttp.ClientError)
_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it in the entrypoint's environment


class JobError(MendableError, RuntimeError):
    """The cluster cannot be reached, or the job failed there."""


def job_server() -> str | None:
    """The address that stages are to be sent to; None where they run in this process."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address.startswith(("http://", "https://")) else None


def in_job() -> bool:
    """Whether this process is the entrypoint of a Ray job."""
    return _IN_JOB in os.environ


def check_place(params: Params, root: Path) -> None:
    """In a Ray job, whose folder goes with it: whether results go to a place that stays.

    Raises:
        ParamsError: storage.root is relative to that folder.
    """
    if not in_job():
        return
    if not params.storage.root:
        log.warning("storage.root is empty: the results stay in this job's own folder, %s", root)
    elif "://" not in params.storage.root and not Path(params.storage.root).is_absolute():
        raise ParamsError(f"storage.root: must be absolute in a Ray job, found {params.storage.root!r}")


def check_reachable(address: str) -> None:
    """Knock at HOST:PORT, or at a URL.

    Raises:
        JobError: nobody answers within seconds.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise JobError(f"RAY_ADDRESS {address}: no cluster answers there: {error}") from None


def run_job(
    stage: str, params: Params, root: Path, address: str, parent_run: str, *, in_driver: bool
) -> None:
    """Run a stage as a Ray job and bring back what DVC tracks of it.

    A job of the same stage, storage, params and commit that still runs, because whoever watched it is gone,
    is watched again instead of doubled.

    Args:
        address: of the cluster's job server, http://HOST:PORT.
        parent_run: MLflow run that the job's own belongs to.
        in_driver: the stage computes in the job's own process, which then needs a worker's cores and GPU.

    Raises:
        JobError: the cluster cannot be reached, another job writes the same data, or the job failed; the
            message shows its last lines.
        ParamsError: storage or tracking store are this machine's own.
        StorageError: the storage cannot be written to.
        KeyboardInterrupt: it was stopped, by Ctrl-C or SIGTERM.
    """
    _check_params(params)
    storage, files = place_of(params.storage.root, root), stage_files(stage, root)
    check_writable(storage)
    elsewhere = storage != root.resolve()
    if elsewhere:
        check_same(storage, root, files.deps)
    check_reachable(address)
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    commit = git_commit(root)
    metadata = {
        "stage": stage,
        "storage": str(storage),
        "git_commit": commit,
        "params_hash": params_hash(params),
    }
    job = _under_way(client, metadata)
    if job is None:
        sent = (*FORWARDED, *SECRET) if os.environ.get(SEND_SECRETS) else FORWARDED
        variables = {name: os.environ[name] for name in sent if name in os.environ}
        job = client.submit_job(
            entrypoint=f"python -m pipelines.{stage}",
            submission_id=f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            runtime_env={
                "working_dir": str(root),
                "env_vars": {**variables, PARENT_RUN: parent_run, GIT_COMMIT: commit},
            },
            metadata=metadata,
            entrypoint_num_cpus=1 if in_driver else 0,
            entrypoint_num_gpus=1 if in_driver and params.train_tgrn.train.use_gpu else 0,
        )
        log.info("submitted job %s to %s", job, address)
    else:
        log.info("going on with job %s on %s, which still runs", job, address)
    with _stopping(client, job):
        _watch(client, job)
    if elsewhere:
        pull_all(storage, root, (*files.outs, THROUGHPUT))


def _check_params(params: Params) -> None:
    place = params.storage.root
    if "://" not in place and not Path(place).is_absolute():
        raise ParamsError(
            f"storage.root: must be s3://bucket/prefix, or an absolute folder that this machine and all "
            f"nodes share, when stages go out as Ray jobs; found {place!r}"
        )
    uri = params.mlflow.tracking_uri
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        raise ParamsError(
            f"mlflow.tracking_uri: must be a server that this machine and the cluster reach, see "
            f"docs/cluster.md; {uri} is a file of one machine"
        )


def _under_way(client: Any, metadata: dict[str, str]) -> str | None:
    """The id of this very job if it runs already.

    Raises:
        JobError: another job writes the same data.
    """
    for job in client.list_jobs():
        found = job.metadata or {}
        same_data = all(found.get(name) == metadata[name] for name in ("stage", "storage"))
        if job.status.is_terminal() or not same_data:
            continue
        if found == metadata and metadata["git_commit"].isalnum():
            return str(job.submission_id)
        raise JobError(
            f"job {job.submission_id} writes the same data with other params code, or uncommitted code; "
            f"wait for it, or `ray job stop {job.submission_id}`"
        )
    return None


@contextmanager
def _stopping(client: Any, job: str) -> Iterator[None]:
    """Stop the job when the block is interrupted, and wait until it has ended."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        log.warning("stopping job %s", job)
        client.stop_job(job)
        deadline = time.monotonic() + STOP_PATIENCE
        while not client.get_job_status(job).is_terminal():
            if time.monotonic() > deadline:
                log.warning("job %s has not ended yet: ray job stop %s", job, job)
                break
            time.sleep(0.5)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(client: Any, job: str) -> None:
    """Show the job's log until it ends.

    Raises:
        JobError: it failed or was stopped.
    """
    lines: deque[str] = deque(maxlen=LAST_LINES)
    shown, seen_at = 0, time.monotonic()
    while True:
        try:
            shown = asyncio.run(_stream(client, job, shown, lines))
            status, seen_at = client.get_job_status(job), time.monotonic()
        except _CONNECTION as error:
            if time.monotonic() - seen_at > PATIENCE:
                raise JobError(
                    f"job {job} is out of sight for {PATIENCE:.0f} s: {error}; it may still run: start again "
                    f"to watch it on"
                ) from error
            log.warning("lost sight of job %s, looking again: %s", job, error)
            time.sleep(2)
            continue
        if status.is_terminal():
            break
        time.sleep(1)  # between its last line and its end
    if status.value != "SUCCEEDED":
        message = client.get_job_info(job).message or ""
        tail = "\n".join(lines)
        raise JobError(f"job {job} ended as {status.value}: {message}\nits last lines:\n{tail}")


async def _stream(client: Any, job: str, shown: int, lines: deque[str]) -> int:
    """Write what of the log is new to our own; returns how many characters have been shown by now."""
    seen, rest = 0, ""
    try:
        async for text in client.tail_job_logs(job):
            new = text[max(0, shown - seen) :]
            seen += len(text)
            sys.stderr.write(new)
            sys.stderr.flush()
            *whole, rest = (rest + new).split("\n")
            lines.extend(whole)
    except _CONNECTION as error:
        log.warning("lost the log of job %s, looking again: %s", job, error)
    if rest:
        lines.append(rest)
    return max(shown, seen)

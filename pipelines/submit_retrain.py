"""Sends `retrain` to a cluster as a Ray job, once per period, and returns its exit code.

    python -m pipelines.submit_retrain --address http://HEAD:8265 --project /home/ubuntu/cfpp --period week

The submission id is of the period and the project (`retrain-2026-w48-` and a hash of --project), so that of
two schedules that fire, or one that fires twice, the second finds the first one's job and watches it. A
period whose job failed is not tried again but with --again. Needs Ray and nothing else of the project's
packages.

Exit codes: retrain's own; 5 when the job still runs after --wait hours.
"""

import argparse
import hashlib
import json
import logging
import os
import posixpath
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from cfpp.errors import MendableError

log = logging.getLogger("pipelines.submit_retrain")

PERIODS = ("day", "week", "month")
STILL_RUNS = 5  # exit code
POLL = 10.0  # seconds between two looks at the job, at most
PATIENCE = 600.0  # seconds that the cluster may be out of sight
LAST_LINES = 40
HEADERS = "RAY_JOB_HEADERS"  # environment variable, as of `ray job`: JSON, for a proxy that wants a token


class SubmitError(MendableError, RuntimeError):
    """The cluster cannot be reached, or does not take the job."""


def period_id(period: str, day: date, project: str) -> str:
    """The submission id of a project's period that `day` lies in; weeks are ISO 8601's, from Monday."""
    year, week, _ = day.isocalendar()
    written = {"day": f"{day:%Y-%m-%d}", "week": f"{year}-w{week:02d}", "month": f"{day:%Y-%m}"}[period]
    folder = hashlib.sha256(posixpath.normpath(project).encode()).hexdigest()[:8]
    return f"retrain-{written}-{folder}"


@dataclass(frozen=True)
class Submitter:
    """Submits to one cluster.

    Attributes:
        client: Ray's.
        entrypoint: the job's command.
        poll: seconds between two looks, at most.
    """

    client: Any
    entrypoint: str
    poll: float = POLL

    def submit(self, name: str, *, again: bool = False) -> str:
        """Submit the period's job unless there is one; returns the id of the one to be watched.

        Args:
            name: see `period_id`.
            again: submit another one, NAME.2 and so on, once those of the period have ended.

        Raises:
            SubmitError: the cluster does not take it.
        """
        jobs = self._attempts(name)
        job = name
        if jobs:
            last = max(jobs)
            job = name if last == 1 else f"{name}.{last}"
            if not again or not jobs[last].is_terminal():
                log.info("%s is there already: %s", job, jobs[last].value)
                return job
            job = f"{name}.{last + 1}"
        try:
            self.client.submit_job(entrypoint=self.entrypoint, submission_id=job)
        except RuntimeError as error:
            if "already exists" not in str(error):  # else another schedule was quicker
                raise SubmitError(f"{job}: {error}") from error
            log.info("%s is there already", job)
            return job
        log.info("submitted %s: %s", job, self.entrypoint)
        return job

    def watch(self, job: str, hours: float) -> int:
        """Wait for the job's end; returns its exit code, or `STILL_RUNS` after so many hours.

        Raises:
            SubmitError: the cluster is out of sight for minutes.
        """
        start = seen = time.monotonic()
        while True:
            try:
                info = self.client.get_job_info(job)
                seen = time.monotonic()
                if info.status.is_terminal():
                    break
            except (OSError, RuntimeError) as error:
                if time.monotonic() - seen > PATIENCE:
                    raise SubmitError(f"{job} is out of sight: {error}; it may still run") from error
                log.warning("lost sight of %s, looking again: %s", job, error)
            if time.monotonic() - start > hours * 3600:
                log.warning("%s still runs; start this again to watch it on", job)
                return STILL_RUNS
            time.sleep(min(self.poll, 0.5 + (time.monotonic() - start) / 10))
        lines = self.client.get_job_logs(job).splitlines()[-LAST_LINES:]
        log.info("%s ended as %s; its last lines:\n%s", job, info.status.value, "\n".join(lines))
        return 0 if info.status.value == "SUCCEEDED" else info.driver_exit_code or 1

    def _attempts(self, name: str) -> dict[int, Any]:
        """The statuses of the period's jobs, by their number from 1."""
        found = {}
        for job in self.client.list_jobs():
            match = re.fullmatch(rf"{re.escape(name)}(?:\.(\d+))?", job.submission_id or "")
            if match:
                found[int(match[1] or 1)] = job.status
        return found


def build_parser() -> argparse.ArgumentParser:
    """Of the command's options."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.submit_retrain", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--address", required=True, help="of the job server, http://HEAD:8265")
    parser.add_argument("--project", required=True, help="folder of the project's working copy on the head")
    parser.add_argument("--period", choices=PERIODS, default="week", help="one job in each; UTC")
    parser.add_argument("--now", action="store_true", help="retrain in any case")
    parser.add_argument("--again", action="store_true", help="once more in this period, after a failure")
    parser.add_argument("--wait", type=float, default=24 * 365, metavar="HOURS", help="watch no longer")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    now = " --now" if options.now else ""
    entrypoint = f"cd {shlex.quote(options.project)} && exec python -m pipelines.retrain{now}"
    try:
        submitter = Submitter(connect(options.address), entrypoint)
        name = period_id(options.period, datetime.now(UTC).date(), options.project)
        job = submitter.submit(name, again=options.again)
        return submitter.watch(job, options.wait)
    except MendableError as error:
        log.error("submit_retrain: %s", error)
        return 1


def connect(address: str) -> Any:
    """Ray's client of a job server.

    Raises:
        SubmitError: nobody answers there.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        headers = json.loads(os.environ.get(HEADERS, "{}"))
        return JobSubmissionClient(address, headers=headers)
    except ValueError as error:
        raise SubmitError(f"{HEADERS}: must be JSON: {error}") from None
    except (OSError, RuntimeError) as error:
        raise SubmitError(f"{address}: no cluster answers there: {error}") from None


if __name__ == "__main__":
    sys.exit(main())

"""Scheduled retraining: is there a reason, then the graph, the gate and a report; interrupted, it goes on.

    python -m pipelines.retrain          # new faces, or age (params: retrain), or an unfinished attempt
    python -m pipelines.retrain --now    # in any case

Exit codes: 0 all is well, also where there was nothing to do; 1 it failed; 3 the gate refused the challenger;
4 another start is at work; 130 it was interrupted. But for a promotion the champion stays what it was.
"""

import argparse
import json
import logging
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cfpp.config import Params, load_params
from cfpp.errors import MendableError
from cfpp.lineage import MANIFEST, UNKNOWN, file_hash
from pipelines.repro import Repro, ReproError, log_path
from pipelines.retrain_lock import Lock, LockedError, age, held
from pipelines.retrain_report import write_report
from pipelines.retrain_state import Attempt, Child, State, load, save

log = logging.getLogger("pipelines.retrain")

DONE, FAILED, REFUSED, LOCKED, INTERRUPTED = 0, 1, 3, 4, 130  # exit codes; argparse has 2
REGISTERED = Path("reports/registered.json")
REFUSAL = "refused"  # the gate's decision that leaves the champion where it is
DAY = 86400.0


class RetrainError(MendableError, RuntimeError):
    """A step failed; the message says which, and how to go on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.retrain", description=__doc__.split("\n")[0])
    parser.add_argument("--now", action="store_true", help="do not ask whether there is a reason")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell's & has it ignored, here and below
        signal.signal(number, signal.default_int_handler)
    try:
        params, root = load_params(), Path.cwd()
        with held(root, params.retrain.stale_after_hours) as lock:
            return Retrain(params, root, lock).run(now=options.now)
    except KeyboardInterrupt:
        log.error("retrain: interrupted; the next start goes on")
        return INTERRUPTED
    except LockedError as error:
        log.error("retrain: %s", error)
        return LOCKED
    except (MendableError, OSError) as error:  # such as a full disk
        log.error("retrain: %s", error)
        return FAILED


@dataclass
class Retrain:
    """One start of the command, which holds the lock."""

    params: Params
    root: Path
    lock: Lock
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = load(self.root)

    def run(self, now: bool) -> int:
        """What there is to do; returns the exit code.

        Raises:
            RetrainError: a step failed.
            MendableError: what it needs to know cannot be had.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self._dvc(name).settle(self.state.child)
        attempt = self.state.attempt
        if attempt is not None:
            stopped = f", where it had stopped: {attempt.error}" if attempt.error else ""
            since = age(time.time() - attempt.started)
            log.info("going on with the attempt of %s ago at %s%s", since, attempt.step, stopped)
        elif now:
            attempt = Attempt(name, "--now", time.time())
        else:
            attempt = self._triggered(name)
        if attempt is None:
            return DONE
        self._save(attempt=replace(attempt, starts=attempt.starts + 1))
        return self._go_on()

    def _triggered(self, name: str) -> Attempt | None:
        """An attempt, if there is a reason for one; its faces are up to date by then."""
        begin = time.monotonic()
        try:
            self._dvc(name).run("repro", *self._look_again(), "shard")
        except ReproError as error:
            raise self._failure("data", name, error) from error
        seconds = time.monotonic() - begin
        reason, why_not = find_reason(self.params, self.root, self.state)
        if reason:
            log.info("retraining: %s", reason)
            attempt = Attempt(name, reason, time.time())
            return attempt.done(seconds)
        log.info("nothing to do: %s", why_not)
        if stale := outdated_stages(self.root):
            what = "code, params or models have changed since the graph ran"
            log.info("%s, for %s; that alone is no reason, --now is", what, ", ".join(stale))
        return None

    def _go_on(self) -> int:
        steps: dict[str, Callable[[Attempt], Attempt]] = {
            "data": self._step_data,
            "repro": self._step_repro,
            "gate": self._step_gate,
        }
        while (attempt := self._attempt()).step in steps:
            begin = time.monotonic()
            try:
                self._save(attempt=steps[attempt.step](attempt))
            except LockedError:
                raise  # the state is another start's by now
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt)
                why = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
                try:
                    self._save(attempt=attempt.stopped(time.monotonic() - begin, why[:2000]))
                except OSError as unsaved:  # the state of before still says where to go on
                    log.warning("could not write down why it stopped: %s", unsaved)
                if isinstance(error, MendableError | OSError):
                    raise self._failure(attempt.step, attempt.id, error) from error
                raise
        return self._report(attempt)

    def _failure(self, step: str, name: str, error: Exception) -> RetrainError:
        champion = "the champion is untouched"
        if step == "gate":  # it may have failed right after the promotion
            champion = "cfpp registry history says who is champion"
        return RetrainError(
            f"stopped at {step}: {error}\nlog: {log_path(self.root, name)}\n"
            f"{champion}; python -m pipelines.retrain goes on from there"
        )

    def _step_data(self, attempt: Attempt) -> Attempt:
        begin = time.monotonic()
        if self._look_again():
            self._dvc(attempt.id).run("repro", *self._look_again(), "shard")
        return attempt.done(time.monotonic() - begin)

    def _step_repro(self, attempt: Attempt) -> Attempt:
        begin = time.monotonic()
        self._dvc(attempt.id).run("repro")
        registered = json.loads((self.root / REGISTERED).read_text(encoding="utf-8"))
        return attempt.done(
            time.monotonic() - begin,
            version=str(registered["version"]),
            manifest=file_hash(self.root / MANIFEST),
        )

    def _step_gate(self, attempt: Attempt) -> Attempt:
        from pipelines.promote import promote

        begin = time.monotonic()
        with self.lock.signing():  # the lock is still ours: nobody else promotes
            outcome = promote(self.params, self.root, reference=attempt.version)
        return attempt.done(
            time.monotonic() - begin,
            decision=outcome.decision,
            table=str(outcome.table),
            record=outcome.record,
        )

    def _report(self, attempt: Attempt) -> int:
        attempt = attempt.done(0.0)
        self.lock.check()
        text = write_report(attempt, self.root)
        self._write(self.state.finish())
        log.info("version %s: %s\n%s", attempt.version, attempt.decision, text)
        return REFUSED if attempt.decision == REFUSAL else DONE

    def _look_again(self) -> tuple[str, ...]:
        """Flags by which dvc runs the shard stage: it watches params and code, but no folder of faces."""
        return ("-f", "-s") if self.params.data.source == "folder" else ()

    def _dvc(self, name: str) -> Repro:
        def record(child: Child | None) -> None:
            self._save(child=child)

        return Repro(self.root, log_path(self.root, name), record, self.lock.sign)

    def _attempt(self) -> Attempt:
        attempt = self.state.attempt
        assert attempt is not None
        return attempt

    def _save(self, **facts: Attempt | Child | None) -> None:
        changed: State = replace(self.state, **facts)  # type: ignore[arg-type]
        if changed != self.state:
            self._write(changed)

    def _write(self, state: State) -> None:
        self.lock.check()  # else the state is another start's
        save(state, self.root)
        self.state = state


def find_reason(params: Params, root: Path, state: State) -> tuple[str, str]:
    """Why to retrain, or "" and why not; data/shards is up to date.

    Raises:
        RegistryError: the tracking store does not answer.
    """
    from cfpp.registry.provenance import all_versions, open_store

    store, finished = open_store(params.mlflow, root), state.finished
    versions = all_versions(store, params.mlflow.model_name) if store else []
    if not versions:
        return "no version was ever registered", ""
    newest, manifest = versions[-1], file_hash(root / MANIFEST)
    known = finished.manifest if finished else newest.tags.get("data_manifest_sha", UNKNOWN)
    what = f"the retraining {finished.id}" if finished else newest.title
    if manifest != known:
        return f"data/shards is not what {what} was made of", ""
    latest = max(newest.created.timestamp(), finished.at if finished else 0.0)
    old, limit = time.time() - latest, params.retrain.max_age_days
    if limit and old > limit * DAY:
        return f"the last one is {age(old)} old, more than retrain.max_age_days {limit:g}", ""
    by_age = f"; by age in {age(limit * DAY - old)}" if limit else ""
    return "", f"data/shards is what {what} was made of, {age(old)} ago{by_age}"


def outdated_stages(root: Path) -> list[str]:
    """Stages that `dvc repro` would run; none where dvc does not say."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    try:
        return sorted(json.loads(done.stdout or "{}"))
    except ValueError:
        log.warning("dvc status: %s", done.stderr.strip()[-500:])
        return []


if __name__ == "__main__":
    sys.exit(main())

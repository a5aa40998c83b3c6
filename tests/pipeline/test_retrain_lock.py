"""What a start of `retrain` holds and keeps: its lock, and its state."""

import json
import multiprocessing
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from cfpp.config import load_params
from pipelines import retrain_lock
from pipelines.host import Process
from pipelines.retrain import Retrain
from pipelines.retrain_lock import LOCK, LockedError, Owner, held, read
from pipelines.retrain_state import Attempt, Child, Finished, State, StateError, load, save
from tests.pipeline.project import REPOSITORY, wait_for


def write_owner(path: Path, owner: Owner) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner.__dict__ | {"process": owner.process.__dict__}))


def test_a_lock_is_stale_when_its_process_is_gone_or_its_machine_silent(tmp_path: Path) -> None:
    path, here = tmp_path / LOCK, socket.gethostname()
    gone = subprocess.Popen(["true"])
    gone.wait()
    me = Process.of(os.getpid())
    for owner, hours_silent, stale in (
        (Owner(here, "ada", Process(gone.pid, time.time()), time.time(), "t"), 0, True),
        (Owner(here, "ada", Process(os.getpid(), me.started - 1000), time.time(), "t"), 0, True),
        (Owner(here, "ada", me, time.time() - 1e6, "t"), 100, False),
        (Owner("elsewhere", "ada", me, time.time() - 1e6, "t"), 1, False),
        (Owner("elsewhere", "ada", me, time.time() - 1e6, "t"), 3, True),
    ):
        write_owner(path, owner)
        then = time.time() - hours_silent * 3600
        os.utime(path, (then, then))
        if stale:
            with held(tmp_path, 2.0) as lock:
                found = read(path)
                assert found
                assert found.token == lock.owner.token
            assert not path.exists()
        else:
            with (
                pytest.raises(LockedError, match=r"of ada on (elsewhere|\S+), since 11.6 days"),
                held(tmp_path, 2.0),
            ):
                pass
            assert path.exists()
    path.write_text("{")
    with pytest.raises(LockedError, match="cannot be read"), held(tmp_path, 2.0):
        pass


def test_a_lock_that_was_taken_over_is_noticed_and_not_given_back(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    with held(tmp_path, 2.0) as lock:
        lock.sign()
        write_owner(path, Owner("elsewhere", "ada", Process(1, 0.0), time.time(), "other"))
        lock.sign()  # looked a moment ago
        lock.signed -= 100
        with pytest.raises(LockedError, match="no longer this start's"):
            lock.sign()
    assert path.exists()


def test_signs_of_life_are_given_in_a_long_block_and_its_end_says_who_has_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_lock, "SIGN_EVERY", 0.05)
    path = tmp_path / LOCK
    with held(tmp_path, 2.0) as lock:
        with lock.signing():
            os.utime(path, (0, 0))
            wait_for(lambda: path.stat().st_mtime > 0)
        other = Owner("elsewhere", "ada", Process(1, 0.0), time.time(), "other")
        with pytest.raises(LockedError, match="no longer this start's"), lock.signing():
            write_owner(path, other)
        reached = []
        with pytest.raises(LockedError, match="no longer this start's"), lock.signing():
            reached.append("the gate")
        assert not reached


def test_a_start_that_lost_the_lock_leaves_the_other_s_state_alone(tmp_path: Path) -> None:
    with held(tmp_path, 2.0) as lock:
        mine = Retrain(load_params(REPOSITORY / "params.yaml"), tmp_path, lock)
        write_owner(tmp_path / LOCK, Owner("elsewhere", "ada", Process(1, 0.0), time.time(), "other"))
        theirs = State(attempt=Attempt("theirs", "--now", 5.0))
        save(theirs, tmp_path)
        with pytest.raises(LockedError, match="no longer this start's"):
            mine._save(attempt=Attempt("mine", "--now", 6.0))
        assert load(tmp_path) == theirs


def _race(root: Path, barrier, winners, over) -> None:
    barrier.wait()
    try:
        with held(root, 2.0):
            winners.put(os.getpid())
            over.wait()
    except LockedError:
        winners.put(0)


def test_of_many_starters_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        write_owner(tmp_path / LOCK, Owner(socket.gethostname(), "ada", Process(1, 0.0), 0.0, "stale"))
        barrier, winners, over = context.Barrier(4), context.Queue(), context.Event()
        starters = [context.Process(target=_race, args=(tmp_path, barrier, winners, over)) for _ in range(4)]
        for starter in starters:
            starter.start()
        found = [winners.get(timeout=60) for _ in starters]
        over.set()
        for starter in starters:
            starter.join()
        assert sorted(bool(pid) for pid in found) == [False, False, False, True]
        assert not (tmp_path / LOCK).exists()


# the state


def test_the_state_comes_back_as_it_was_saved_and_rubbish_is_named(tmp_path: Path) -> None:
    assert load(tmp_path) == State()
    attempt = Attempt("a", "--now", 5.0).done(2.0).done(3.0, version="7")
    assert (attempt.step, attempt.version) == ("gate", "7")
    attempt = attempt.stopped(4.0, "no disk").done(1.0, decision="refused", record={"why": 1})
    assert [(step.name, step.seconds) for step in attempt.steps] == [
        ("data", 2.0),
        ("repro", 3.0),
        ("gate", 5.0),
    ]
    state = State(attempt, Finished("b", 1.0, "sha", "6", "promoted"), Child("h", Process(3, 4.0), "log"))
    save(state, tmp_path)
    assert load(tmp_path) == state
    (tmp_path / ".cfpp/retrain.json").write_text('{"attempt": {}}')
    with pytest.raises(StateError, match="cannot be read"):
        load(tmp_path)

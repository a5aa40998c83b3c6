"""What a log shows of a long job."""

import logging

import pytest

from cfpp import progress
from cfpp.progress import Lines, progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Set its only item to what time it is."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then_with_rate_and_time_left(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bar = Lines(total=100, desc="restored", unit="shard")
    bar.set_postfix_str("30.0 faces/s, 12 MB, 1 quarantined")
    for _ in range(40):
        clock[0] += 0.5
        bar.update(1)
    assert [record.getMessage() for record in caplog.records] == [
        "restored: shard 30 of 100, 2.00/s, 35 s left, 30.0 faces/s, 12 MB, 1 quarantined"
    ]
    clock[0] += 10
    bar.update(60)
    bar.close()
    assert "shard 100 of 100, 3.33/s, 30.0" in caplog.records[-1].getMessage()


def test_what_an_earlier_run_did_is_not_this_ones_rate(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bar = Lines(total=1000, desc="train_dam")
    bar.update(900)
    clock[0] += 20
    bar.update(20)
    assert caplog.records[-1].getMessage() == "train_dam: step 920 of 1000, 1.00/s, 80 s left"


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr(progress.sys.stderr, "isatty", lambda answer=terminal: answer, raising=False)
        bar = progress_bar(3, "x", "shard")
        assert isinstance(bar, Lines) != terminal
        bar.close()

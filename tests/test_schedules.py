"""The schedules of retraining: their files are well formed, and call the command with options that it has."""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipelines.submit_retrain import build_parser, period_id

REPOSITORY = Path(__file__).resolve().parents[1]
CRONTAB = REPOSITORY / "deploy/cron/retrain.crontab"
SERVICE, TIMER = (REPOSITORY / f"deploy/systemd/cfpp-retrain.{kind}" for kind in ("service", "timer"))
WORKFLOW = REPOSITORY / ".github/workflows/retrain.yml"


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(0, 40))
def test_two_days_have_one_id_where_they_share_the_period(day: date, later: int) -> None:
    other = day + timedelta(later)
    monday = day - timedelta(day.weekday())

    def same(period: str) -> bool:
        return period_id(period, day, "/p") == period_id(period, other, "/p")

    assert same("week") == (other < monday + timedelta(7))
    assert same("day") == (later == 0)
    assert same("month") == ((day.year, day.month) == (other.year, other.month))


def test_the_ids_are_such_as_people_read() -> None:
    folder = hashlib.sha256(b"/home/ubuntu/cfpp").hexdigest()[:8]
    for period, written in (("week", "2026-w53"), ("day", "2027-01-01"), ("month", "2027-01")):
        name = period_id(period, date(2027, 1, 1), "/home/ubuntu/cfpp/")
        assert name == f"retrain-{written}-{folder}"
        assert name != period_id(period, date(2027, 1, 1), "/home/ubuntu/another")


def fire_days(first: date, weekday: int, hour: int, zone: str) -> list[tuple[date, date]]:
    """Of ten years of weekly fires, the local day and the day in UTC."""
    days = (first + timedelta(7 * week + weekday) for week in range(520))
    local = (datetime(day.year, day.month, day.day, hour, tzinfo=ZoneInfo(zone)) for day in days)
    return [(when.date(), when.astimezone(UTC).date()) for when in local]


def test_the_weekly_fire_lies_in_the_local_week_and_in_utc_s_in_every_time_zone() -> None:
    minute, hour, *_, weekday = next(
        line.split(None, 5)[:5] for line in CRONTAB.read_text().splitlines() if line.startswith("0 ")
    )
    assert minute == "0"
    monday = date(2026, 1, 5)
    for zone in sorted(available_timezones()):
        for local, utc in fire_days(monday, int(weekday) - 1, int(hour), zone)[::13]:
            assert period_id("week", local, "/p") == period_id("week", utc, "/p"), zone
            # and a fire that is two days late
            late = utc + timedelta(2)
            assert period_id("week", late, "/p") == period_id("week", utc, "/p"), zone


def submitted(command: str) -> list[str]:
    """The options that a shell command gives to submit_retrain, as its own parser takes them."""
    words = shlex.split(command)
    begin = words.index("pipelines.submit_retrain")
    assert words[begin - 1] == "-m"
    ends = [place for place, word in enumerate(words) if place > begin and word in ("||", "&&", ";")]
    options = words[begin + 1 : ends[0] if ends else None]
    taken = build_parser().parse_args([word for word in options if word not in ("$NOW", "$AGAIN")])
    assert taken.period == "week"
    return options


def test_the_crontab_is_one() -> None:
    lines = [line for line in CRONTAB.read_text().splitlines() if line and not line.startswith("#")]
    settings = [line for line in lines if re.fullmatch(r"[A-Z]+=\S+", line)]
    [entry] = [line for line in lines if line not in settings]
    fields = entry.split(None, 5)
    minute, hour, day, month, weekday = fields[:5]
    assert 0 <= int(minute) < 60
    assert 0 <= int(hour) < 24
    assert (day, month, weekday) == ("*", "*", "3")
    assert "%" not in fields[5]  # cron makes a new line of it
    names = {line.split("=")[0] for line in settings}
    assert set(re.findall(r"\$(\w+)", fields[5])) <= names
    subprocess.run(["sh", "-n", "-c", fields[5]], check=True)
    submitted(fields[5])


def test_the_units_are_such_as_systemd_takes() -> None:
    start = re.search(r"^ExecStart=/bin/sh -c '(.*)'$", SERVICE.read_text(), re.MULTILINE)
    assert start
    submitted(start[1])
    assert "TimeoutStartSec=infinity" in SERVICE.read_text()
    when = re.search(r"^OnCalendar=(.*)$", TIMER.read_text(), re.MULTILINE)
    assert when
    assert re.fullmatch(r"Wed .* UTC", when[1])
    if shutil.which("systemd-analyze"):
        verify = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", SERVICE, TIMER],
            capture_output=True,
            text=True,
            check=False,
        )
        assert verify.returncode == 0, verify.stderr
        assert "cfpp-retrain" not in verify.stderr
        subprocess.run(["systemd-analyze", "calendar", when[1]], check=True, capture_output=True)


@pytest.fixture
def workflow() -> dict:
    loaded: dict = YAML(typ="safe").load(WORKFLOW.read_text())
    return loaded


def test_the_workflow_runs_on_wednesdays_by_hand_and_not_on_forks(workflow: dict) -> None:
    assert [item["cron"].split()[2:] for item in workflow["on"]["schedule"]] == [["*", "*", "3"]]
    assert set(workflow["on"]) == {"schedule", "workflow_dispatch"}
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["retrain"]
    assert job["if"] == "vars.RETRAIN_PROJECT != ''"
    assert job["timeout-minutes"] < 360
    for step in job["steps"]:
        assert "${{" not in step.get("run", "")  # what comes from outside goes through the environment
        subprocess.run(["bash", "-n", "-c", step.get("run", "")], check=True)
    options = submitted(
        next(line for line in job["steps"][-1]["run"].splitlines() if "submit_retrain" in line)
    )
    hours = float(options[options.index("--wait") + 1])
    assert 60 * hours < job["timeout-minutes"]
    install = next(step["run"] for step in job["steps"] if "pip install" in step.get("run", ""))
    said = subprocess.run(
        ["bash", "-c", install.replace("pip install --quiet", "echo")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.fullmatch(r"ray\[default\]==\d+\.\d+\.\d+\n", said)


@pytest.mark.parametrize(("exit_code", "expected"), [(0, 0), (1, 1), (3, 3), (4, 4), (5, 0)])
def test_the_workflow_s_last_step_says_what_the_exit_code_means(
    workflow: dict, tmp_path: Path, exit_code: int, expected: int
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\necho "$@"; exit {exit_code}\n')
    fake.chmod(0o755)
    script = workflow["jobs"]["retrain"]["steps"][-1]["run"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROJECT": "/a b", "NOW": "--now"}

    def run(**variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(ADDRESS="http://head:8265")
    assert done.returncode == expected
    assert "--address http://head:8265 --project /a b --period week --wait 5.5 --now" in done.stdout
    assert ("::" in done.stdout) == (exit_code in (3, 4, 5))
    done = run(ADDRESS="")
    assert (done.returncode, "RETRAIN_ADDRESS is empty" in done.stdout) == (1, True)


def test_the_pod_s_script_brings_new_code_and_keeps_what_runs_have_made(tmp_path: Path) -> None:
    image, work = tmp_path / "image", tmp_path / "volume" / "cfpp"
    (image / "deploy/kuberay").mkdir(parents=True)
    (image / "pipelines").mkdir()
    (image / "pipelines/__init__.py").touch()
    (image / "pipelines/retrain.py").write_text(
        "import pathlib, sys; pathlib.Path('ran').write_text('first ' + ' '.join(sys.argv[1:]))"
    )
    shutil.copy(REPOSITORY / "deploy/kuberay/retrain.sh", image / "deploy/kuberay")
    (image / "params.yaml").write_text("run: 1\n")
    (image / "dvc.lock").write_text("the image's\n")
    (image / ".gitignore").write_text("/ran\n/.cfpp/\n")

    def commit() -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "x"]):
            subprocess.run(["git", *words], cwd=image, check=True)

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = ["bash", str(image / "deploy/kuberay/retrain.sh"), str(work)]
    commit()
    (tmp_path / "volume/cfpp.partial/.git").mkdir(parents=True)  # of a clone that was killed
    subprocess.run([*command, "--now"], check=True, env=environment)
    assert (work / "ran").read_text() == "first --now"
    (work / ".cfpp").mkdir()
    (work / ".cfpp/retrain.json").write_text("{}")
    (work / "dvc.lock").write_text("the volume's\n")
    code = image / "pipelines/retrain.py"
    code.write_text(code.read_text().replace("first", "second"))
    commit()
    (image / "params.yaml").write_text("run: 2\n")  # of an image that was built with other params
    subprocess.run(command, check=True, env=environment)
    assert (work / "ran").read_text() == "second "
    assert (work / "dvc.lock").read_text() == "the volume's\n"
    assert (work / "params.yaml").read_text() == "run: 2\n"
    assert (work / ".cfpp/retrain.json").read_text() == "{}"
    # killed before the volume's dvc.lock was back, and in the middle of git's work
    (work / "dvc.lock").rename(work / ".cfpp-dvc.lock")
    (work / "dvc.lock").write_text("the image's\n")
    (work / ".git/index.lock").touch()
    (work / "ran").unlink()
    subprocess.run(command, check=True, env=environment)
    assert (work / "ran").read_text() == "second "
    assert (work / "dvc.lock").read_text() == "the volume's\n"
    assert not (work / ".cfpp-dvc.lock").exists()
    with Path(f"{work}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as the script of another pod
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert (done.returncode, "another pod is at work" in done.stderr) == (4, True)

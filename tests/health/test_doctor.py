"""`cfpp doctor`, and how it stands a check that fails itself."""

import json
import shutil
from pathlib import Path

import pytest

from cfpp.cli import main
from cfpp.health.examination import safely
from cfpp.health.finding import Finding, Level, ok
from tests.health.altered import PARAMS_FILE


def test_a_check_that_fails_is_a_finding_and_keeps_what_it_found_before() -> None:
    def fails() -> list[Finding]:
        raise ZeroDivisionError("a defect")

    [found] = safely("thing", fails)
    assert (found.subject, found.level) == ("thing", Level.PROBLEM)
    assert "ZeroDivisionError: a defect" in found.message
    good = ok("thing", "fine")
    assert list(safely("thing", lambda: good)) == [good]

    def half() -> object:
        yield good
        raise OSError("gone")

    assert [finding.level for finding in safely("thing", half)] == [Level.OK, Level.PROBLEM]


def test_a_healthy_project_and_a_typo_by_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PARAMS_FILE, tmp_path)
    for name in (".git", ".dvc"):
        target = PARAMS_FILE.parent / name
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["doctor", "--json"]) == 0
    findings = {item["subject"]: item for item in json.loads(capsys.readouterr().out)}
    assert {"Python", "torch", "faces", "storage", "disk, project", "tracking store"} <= set(findings)
    assert {item["level"] for item in findings.values()} <= {"ok", "warning"}
    assert {path.name for path in tmp_path.iterdir()} == {".git", ".dvc", "params.yaml"}

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    text = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("storage:\n", "storge:\n"))
    assert main(["doctor"]) == 1
    out, error = capsys.readouterr()
    lines = out.splitlines()
    assert any(line.startswith("problem  params") and "storge" in line for line in lines)
    assert any(line.startswith("problem  Ray") for line in lines)
    assert error == "cfpp doctor: 3 to be mended, see above\n"

"""What `retrain` leaves for people and for programs: reports/retrain.md and reports/retrain.json."""

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from cfpp.files import replacing
from pipelines.retrain_state import Attempt

REPORT = Path("reports/retrain")


def write_report(attempt: Attempt, root: Path) -> str:
    """Write both files, whole; returns the one for people."""
    now = time.time()
    text = render(attempt, now)
    tree = asdict(attempt) | {"finished": now}
    for suffix, content in ((".md", text), (".json", json.dumps(tree, indent=1) + "\n")):
        with replacing((root / REPORT).with_suffix(suffix)) as partial:
            partial.write_text(content, encoding="utf-8")
    return text


def render(attempt: Attempt, now: float) -> str:
    """The report as Markdown."""
    steps = "\n".join(f"| {step.name} | {step.seconds:.0f} s |" for step in attempt.steps)
    begun = datetime.fromtimestamp(attempt.started, UTC)
    ended = datetime.fromtimestamp(now, UTC)
    return f"""# Retraining {attempt.id}

- Reason: {attempt.trigger}
- Begun {begun:%Y-%m-%d %H:%M:%S} UTC, ended {ended:%Y-%m-%d %H:%M:%S} UTC, in {attempt.starts} start(s)
- Version: {attempt.version}
- Decision: **{attempt.decision}**

| step | time, without starts that were killed |
|---|---|
{steps}

{attempt.table.strip()}
"""

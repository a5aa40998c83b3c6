"""How fast a stage ran, for those who pay for the machines: reports/throughput.json, one entry per stage.

It differs from run to run, so DVC does not track it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from cfpp.files import replacing
from pipelines.session import Session

REPORT = Path("reports/throughput.json")


def record(session: Session, figures: Mapping[str, float]) -> None:
    """Log the figures of this run to MLflow, and put them in the stage's place in reports/throughput.json."""
    session.log_metrics(figures)
    path = session.root / REPORT
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found[session.stage] = {name: round(value, 3) for name, value in figures.items()}
        with replacing(path) as partial:
            partial.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")

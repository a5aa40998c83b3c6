"""How fast a stage ran, for those who pay for the machines: reports/throughput.json, one entry per stage.

It differs from run to run, so DVC does not track it.
"""

import json
from collections.abc import Mapping

from filelock import FileLock

from cfpp.files import replacing
from pipelines.mirror import THROUGHPUT, pull, push
from pipelines.session import Session


def record(session: Session, figures: Mapping[str, float]) -> None:
    """Log the figures of this run to MLflow, and put them in the stage's place in reports/throughput.json."""
    session.log_metrics(figures)
    path = session.root / THROUGHPUT
    if session.elsewhere:  # a job's own folder has no entries of other stages
        pull(session.storage, session.root, [THROUGHPUT])
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found[session.stage] = {name: round(value, 3) for name, value in figures.items()}
        with replacing(path) as partial:
            partial.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if session.elsewhere:
        push(session.storage, session.root, [THROUGHPUT])

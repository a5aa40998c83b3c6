"""How fast the stages ran, for those who pay for the machines: reports/throughput.json, one entry per stage.

It differs from run to run, so DVC does not track it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from cfpp.files import replacing


def put(path: Path, stage: str, figures: Mapping[str, float]) -> None:
    """Put figures of a run into the stage's entry; what other stages wrote stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found[stage] = found.get(stage, {}) | {name: round(value, 3) for name, value in figures.items()}
        with replacing(path) as partial:
            partial.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")

"""`cfpp doctor`: whether this machine and this project are ready, and what to do where they are not."""

import argparse
import textwrap
from pathlib import Path
from typing import Any

from cfpp.errors import MendableError


def add_parser(commands: Any) -> None:
    """Add `doctor` to the sub-parsers of argparse."""
    doctor = commands.add_parser("doctor", help="check this machine and this project, and say what to do")
    doctor.add_argument("--ray", action="store_true", help="start a local Ray and run a task on it, too")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    import dataclasses
    import json
    import logging
    from collections import Counter

    from cfpp.health.examination import examine
    from cfpp.health.finding import Level

    logging.getLogger().setLevel(logging.WARNING)
    counts: Counter[Level] = Counter()
    found = []
    for finding in examine(Path.cwd(), options.ray):
        counts[finding.level] += 1
        found.append(dataclasses.asdict(finding))
        if not options.json:
            print(f"{finding.level:<8} {finding.subject:<23} {finding.message}", flush=True)
            if finding.remedy:
                print(textwrap.indent(f"-> {finding.remedy}", " " * 33), flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(", ".join(f"{counts[level]} {level}" for level in Level))
    if counts[Level.PROBLEM]:
        raise MendableError(f"{counts[Level.PROBLEM]} to be mended, see above")

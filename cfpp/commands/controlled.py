"""`cfpp controlled`: the pictures and true flows of the controlled study (docs/controlled.md)."""

import argparse
from pathlib import Path
from typing import Any

from cfpp.config import load_params


def add_parser(commands: Any) -> None:
    """Add `controlled` to the sub-parsers of argparse."""
    parser = commands.add_parser(
        "controlled", help="make I_F and I_G of every face from the clean face, with the flow between them"
    )
    parser.add_argument("out", type=Path, help="folder to write lq, id, gp and flow to")
    parser.set_defaults(run=_controlled)


def _controlled(options: argparse.Namespace) -> None:
    from cfpp.synthesis.controlled import write_study

    made = write_study(load_params(), options.out)
    counts = ", ".join(f"{count} {split}" for split, count in made.items())
    print(f"{options.out}: {counts}: controlled pictures of each, I_LQ, I_F and I_G, and the flow")

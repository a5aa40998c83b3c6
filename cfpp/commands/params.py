"""`cfpp profile`: named overrides of params.yaml."""

import argparse
from pathlib import Path
from typing import Any

from cfpp.config import load_params
from cfpp.profiles import apply_profile


def add_parser(commands: Any) -> None:
    """Add `profile` to the sub-parsers of argparse."""
    profile = commands.add_parser("profile", help="merge a profile into params.yaml")
    profile.add_argument("name", help="name of a file in profiles/, or a path")
    profile.set_defaults(run=_profile)


def _profile(options: argparse.Namespace) -> None:
    path = Path(options.name) if options.name.endswith(".yaml") else Path("profiles") / f"{options.name}.yaml"
    load_params()  # a broken params.yaml is reported as such, not as the profile's fault
    for key in apply_profile(path, Path("params.yaml")):
        print(f"changed {key}")

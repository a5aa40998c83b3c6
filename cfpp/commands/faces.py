"""`cfpp faces`: a look at the embedded faces."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add `faces` to the sub-parsers of argparse."""
    faces = commands.add_parser("faces", help="draw a contact sheet of the embedded faces")
    faces.add_argument("out", type=Path, help="picture to write (.png or .jpg)")
    faces.add_argument("--rows", type=int, default=5, help="shots of one identity")
    faces.add_argument("--columns", type=int, default=8, help="identities")
    faces.add_argument("--size", type=int, default=192, help="side of one face, pixels")
    faces.add_argument("--seed", type=int, default=0)
    faces.set_defaults(run=_faces)


def _faces(options: argparse.Namespace) -> None:
    from cfpp.data.pictures import save
    from cfpp.data.procedural.sheet import contact_sheet

    save(options.out, contact_sheet(options.seed, options.rows, options.columns, options.size))

"""`cfpp verify` and `cfpp lineage`: is the data what it says, and where has a face gone."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfpp.config import load_params
from cfpp.errors import MendableError


def add_parser(commands: Any) -> None:
    """Add `verify` and `lineage` to the sub-parsers of argparse."""
    check = commands.add_parser("verify", help="compare data/ with its manifests, or prove a face gone")
    check.add_argument("--absent", nargs="+", metavar="KEY", help="look for these keys instead, everywhere")
    check.set_defaults(run=_verify)

    lineage = commands.add_parser("lineage", help="follow a face to the models, or a model to its data")
    start = lineage.add_mutually_exclusive_group(required=True)
    start.add_argument("key", nargs="?", help="of a face")
    start.add_argument("--model", metavar="VERSION", help="number, alias, or models:/NAME@ALIAS")
    lineage.set_defaults(run=_lineage)


def _verify(options: argparse.Namespace) -> None:
    if options.absent:
        _search(options.absent)
        return
    from cfpp.audit.verify import verify
    from cfpp.storage import place_of

    params = load_params()
    outcome = verify(place_of(params.storage.root), params.prior)
    for finding in outcome.findings:
        print(finding)
    for name, tally in outcome.tallies.items():
        print(
            f"{name}: {tally.shards} sound shards, {tally.keys} keys, "
            f"{tally.quarantined} quarantined, {tally.bytes:,} bytes"
        )
    if outcome.findings:
        raise MendableError(f"{len(outcome.findings)} findings, see above")
    print("every byte is as its manifest says")


def _search(keys: Sequence[str]) -> None:
    from cfpp.audit.absence import search

    outcome = search(load_params(), Path.cwd(), keys)
    for name, count in outcome.searched.items():
        print(f"searched {name}: {count} files")
    for line in outcome.unread:
        print(line)
    for key, places in outcome.findings.items():
        alike = ", ".join(sorted(outcome.alike[key]))
        verdict = f"unproven: {alike} may be this face; ask for the key itself" if alike else "absent"
        print(f"{key}: {f'still in {len(places)} files' if places else verdict}")
        for place in places:
            print(f"  {place}")
    if outcome.unread:
        raise MendableError(f"{len(outcome.unread)} places cannot be looked through, see above")
    if held := [key for key, places in outcome.findings.items() if places or outcome.alike[key]]:
        raise MendableError(f"{', '.join(held)}: not proven gone, see above")


def _lineage(options: argparse.Namespace) -> None:
    from cfpp.registry.walk import walk_face, walk_model

    params, root = load_params(), Path.cwd()
    lines = walk_face(params, root, options.key) if options.key else walk_model(params, root, options.model)
    for heading, text in lines:
        print(f"{heading:<15} {text}")

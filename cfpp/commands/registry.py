"""`cfpp registry`: the versions of the restorer, and who was champion when."""

import argparse
from pathlib import Path
from typing import Any

from cfpp.errors import MendableError

_FIGURES = ("out.psnr", "out.lpips", "out.nlpd", "out.identity")  # of the evaluation, as tags name them


def add_parser(commands: Any) -> None:
    """Add `registry` to the sub-parsers of argparse."""
    registry = commands.add_parser("registry", help="versions of the restorer, and who was champion when")
    actions = registry.add_subparsers(dest="action", required=True)
    listed = actions.add_parser("list", help="versions with their aliases and figures")
    listed.set_defaults(run=_list)
    history = actions.add_parser("history", help="who was champion when, by whom and why")
    history.set_defaults(run=_history)


def _list(options: argparse.Namespace) -> None:
    from cfpp.config import load_params
    from cfpp.registry.champions import REFUSED
    from cfpp.registry.provenance import all_versions, open_store

    params = load_params().mlflow
    store = open_store(params, Path.cwd())
    versions = all_versions(store, params.model_name) if store else []
    if not versions:
        raise MendableError(f"there is no version of {params.model_name}; run dvc repro register")
    shown = [name for name in _FIGURES if any(f"eval.{name}" in version.tags for version in versions)]
    rows = [["version", "made (UTC)", "aliases", *shown, "gate"]]
    for version in versions:
        refused = version.tags.get(REFUSED)
        promoted = "promoted" if "promoted_at" in version.tags else ""
        rows.append(
            [
                version.number,
                version.created.strftime("%Y-%m-%d %H:%M"),
                ", ".join(version.aliases),
                *(version.tags.get(f"eval.{name}", "") for name in shown),
                f"refused {refused}" if refused else promoted,
            ]
        )
    _print(rows)


def _history(options: argparse.Namespace) -> None:
    from cfpp.config import load_params
    from cfpp.registry.champions import Champions

    reign = Champions.open(load_params().mlflow, Path.cwd()).reign().settled
    if not reign.acts:
        print("there never was a champion; python -m pipelines.promote makes one")
        return
    done = [act.number for act in reign.acts if act.state == "done"]
    rows = [["", "when (UTC)", "from", "to", "how", "by", "why"]]
    for act in reign.acts:
        cut = act.state == "abandoned"
        rows.append(
            [
                "now" if done and act.number == done[-1] else "",
                act.when.replace("T", " ").removesuffix("+00:00"),
                act.before or "none",
                act.after or "none",
                f"{act.kind}, cut off: nothing changed" if cut else act.kind,
                act.who,
                act.why,
            ]
        )
    _print(rows)


def _print(rows: list[list[str]]) -> None:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())

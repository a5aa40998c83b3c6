"""What a module needs to run, read off the import statements; nothing is executed."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Code:
    """What a module needs: modules of this project, and other installed top-level modules."""

    own: frozenset[str]
    foreign: frozenset[str]


def needed_code(*entries: str, own: tuple[str, ...] = ("cfpp",)) -> Code:
    """Modules reached by import statements from `entries`, those inside functions included.

    Args:
        entries: module names.
        own: top-level packages whose modules are followed; all others count as foreign.
    """
    found: set[str] = set()
    foreign: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        if parts[0] not in own:
            foreign.add(parts[0])
            continue
        waiting += [parent for i in range(1, len(parts)) if (parent := ".".join(parts[:i])) not in found]
        path = source_of(name)
        if path is None or name in found:  # `from module import thing`: the thing is no module
            continue
        found.add(name)
        waiting += _imported(path, own)
    return Code(frozenset(found), frozenset(foreign))


def source_of(name: str) -> Path | None:
    """File of a module of this project; None when `name` is no module."""
    base = ROOT.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


@cache
def _imported(path: Path, own: tuple[str, ...]) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
            if node.module.split(".")[0] in own:
                names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)

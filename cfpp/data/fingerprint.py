"""A name for all that decides a stage's bytes: its params and the source that acts on them."""

import ast
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cfpp.imports import needed_code, source_of

# The first three read params, whose values count as parts: a new knob alone changes no result. The others
# only move bytes about.
NEUTRAL = frozenset(
    f"cfpp.{name}" for name in ("config", "training_params", "schema", "files", "storage", "progress")
)


def fingerprint(*parts: Any, code: Sequence[str] = ()) -> str:
    """sha256, hex, of the parts and of the source that acts on them.

    Args:
        parts: dataclasses, mappings, sequences, strings, numbers: what JSON can say.
        code: names of modules of this project; all that they import of it counts with them. Comments,
            docstrings and layout do not count: only a change of the code itself makes results stale.
            Nor does `NEUTRAL`.
    """
    digest = hashlib.sha256(json.dumps([_plain(part) for part in parts], sort_keys=True).encode())
    for name in sorted(needed_code(*code).own - NEUTRAL):
        path = source_of(name)
        assert path is not None
        digest.update(f"\n{name}\n{_meaning(path)}".encode())
    return digest.hexdigest()


def _plain(part: Any) -> Any:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return _plain(dataclasses.asdict(part))
    if isinstance(part, Mapping):
        return {str(key): _plain(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_plain(value) for value in part]
    return part


def _meaning(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(ast.fix_missing_locations(tree))

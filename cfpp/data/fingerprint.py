"""A name for all that decides a stage's bytes: its params and the source that acts on them."""

import ast
import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def fingerprint(*parts: Any, code: Sequence[ModuleType] = ()) -> str:
    """sha256, hex, of the parts and of the modules' source.

    Args:
        parts: dataclasses, mappings, sequences, strings, numbers: what JSON can say.
        code: modules, or packages with all their modules. Comments, docstrings and layout do not
            count: only a change of the code itself makes the shards stale.
    """
    digest = hashlib.sha256(json.dumps([_plain(part) for part in parts], sort_keys=True).encode())
    for module in sorted(code, key=lambda item: item.__name__):
        for path in _sources(module):
            digest.update(f"\n{module.__name__} {path.name}\n{_meaning(path)}".encode())
    return digest.hexdigest()


def _plain(part: Any) -> Any:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return _plain(dataclasses.asdict(part))
    if isinstance(part, Mapping):
        return {str(key): _plain(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_plain(value) for value in part]
    return part


def _sources(module: ModuleType) -> list[Path]:
    folders = getattr(module, "__path__", None)
    if folders is None:
        return [Path(inspect.getsourcefile(module) or "")]
    return sorted(path for folder in folders for path in Path(folder).rglob("*.py"))


def _meaning(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(ast.fix_missing_locations(tree))

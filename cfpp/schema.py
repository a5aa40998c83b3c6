"""Frozen, typed sections of a YAML mapping, and back: what does not fit is an error that names its key."""

import dataclasses
import math
import typing
from typing import Any, Literal

from cfpp.errors import MendableError


class ParamsError(MendableError, ValueError):
    """A key of params.yaml is unknown, missing, ill-typed or out of range."""


def build(cls: type, tree: Any, where: str) -> Any:
    """The dataclass `cls` of a plain mapping, nested sections included.

    Args:
        cls: fields are int, float, bool, str, Literal, tuple of these, or such a dataclass. Its
            `__post_init__` checks ranges with the functions below, by the bare names of its fields.
        tree: what YAML gave.
        where: dotted key of the section, "" at the top.

    Raises:
        ParamsError: with the dotted key.
    """
    if not isinstance(tree, dict):
        raise ParamsError(f"{where or 'the file'}: expected a mapping, found {type(tree).__name__}")
    hints = typing.get_type_hints(cls)
    dotted = {name: f"{where}.{name}" if where else name for name in [*hints, *map(str, tree)]}
    unknown = [dotted[str(key)] for key in tree if key not in hints]
    if unknown:
        raise ParamsError(f"unknown key {unknown[0]}; known here: {', '.join(hints)}")
    missing = [dotted[name] for name in hints if name not in tree]
    if missing:
        raise ParamsError(f"missing key {missing[0]}")
    values = {name: _convert(hint, tree[name], dotted[name]) for name, hint in hints.items()}
    try:
        return cls(**values)
    except ParamsError as error:
        raise ParamsError(f"{where}.{error}" if where else str(error)) from None


def to_dict(section: Any) -> dict[str, Any]:
    """Plain mapping of a section, tuples as lists, for cards, hashes and MLflow."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    mapping: dict[str, Any] = plain(dataclasses.asdict(section))
    return mapping


def require(holds: bool, key: str, rule: str, value: Any) -> None:
    """Raises ParamsError unless `holds`."""
    if not holds:
        raise ParamsError(f"{key}: must {rule}, found {value!r}")


def positive(section: Any, *names: str) -> None:
    """Every one of these fields, or every item of them, is above 0."""
    for name in names:
        value = getattr(section, name)
        items = value if isinstance(value, tuple) else (value,)
        require(bool(items) and all(item > 0 for item in items), name, "be above 0", value)


def not_negative(section: Any, *names: str) -> None:
    """Every one of these fields is 0 or more."""
    for name in names:
        require(getattr(section, name) >= 0, name, "be 0 or more", getattr(section, name))


def fraction(section: Any, *names: str) -> None:
    """Every one of these fields is between 0 and 1."""
    for name in names:
        require(0 <= getattr(section, name) <= 1, name, "be between 0 and 1", getattr(section, name))


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ParamsError(f"{where}: expected one of {', '.join(map(str, choices))}, found {value!r}")
        return value
    if origin is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, list):
            raise ParamsError(f"{where}: expected a list, found {value!r}")
        if items[-1] is not ... and len(value) != len(items):
            raise ParamsError(f"{where}: expected {len(items)} values, found {len(value)}")
        hints = [items[0]] * len(value) if items[-1] is ... else list(items)
        return tuple(
            _convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True))
        )
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ParamsError(f"{where}: expected {hint.__name__}, found {value!r}")
    if hint is float and not math.isfinite(value):
        raise ParamsError(f"{where}: expected a finite number, found {value!r}")
    return value

"""Named overrides of params.yaml.

A profile is a partial params.yaml; its `x-train` changes every training that does not say otherwise. Applying
one edits params.yaml in place, comments kept, so that `git diff params.yaml` shows exactly what it did and
DVC sees ordinary parameter changes.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from cfpp.config import SHARED_PREFIX, ParamsError, parse_params, to_dict
from cfpp.files import replacing


def apply_profile(profile: Path, params: Path) -> list[str]:
    """Merge `profile` into `params` and return the dotted keys whose values changed.

    Lists and scalars are replaced, mappings merged. `params` is replaced atomically, and only when
    the result is a valid params.yaml.

    Raises:
        ParamsError: there is no such profile (the message lists those that exist), a key of it is unknown, or
            the result is not valid.
    """
    if not profile.is_file():
        known = ", ".join(sorted(path.stem for path in profile.parent.glob("*.yaml"))) or "none"
        raise ParamsError(f"{profile}: no such profile; there are: {known}")
    overrides = _yaml().load(profile.read_text(encoding="utf-8")) or {}
    before = after = params.read_text(encoding="utf-8")
    # What other sections merge comes first, so that theirs is compared with what they then inherit.
    shared = {key: value for key, value in overrides.items() if key.startswith(SHARED_PREFIX)}
    own = {key: value for key, value in overrides.items() if key not in shared}
    for part in (shared, own):
        tree = _yaml().load(after)
        _merge(tree, part, str(profile), "")
        text = io.StringIO()
        _yaml().dump(tree, text)
        after = text.getvalue()
    old = _values(before)
    try:
        new = _values(after)
    except ParamsError as error:
        raise ParamsError(f"{profile}: {error}") from None
    with replacing(params) as partial:
        partial.write_text(after, encoding="utf-8")
    return [key for key, value in new.items() if old[key] != value]


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    return yaml


def _values(text: str) -> dict[str, Any]:
    """Dotted key to value, anchors resolved."""

    def leaves(tree: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{where}{key}.")
            else:
                yield f"{where}{key}", value

    return dict(leaves(to_dict(parse_params(YAML(typ="safe").load(text))), ""))


def _flow_sequence(values: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()  # [a, b], as params.yaml writes its lists
    return sequence


def _merge(tree: Any, overrides: dict[str, Any], profile: str, where: str) -> None:
    for key, value in overrides.items():
        dotted = f"{where}.{key}" if where else key
        if key not in tree:
            raise ParamsError(f"{profile}: unknown key {dotted}")
        if isinstance(value, dict):
            _merge(tree[key], value, profile, dotted)
        elif tree[key] != value:
            tree[key] = _flow_sequence(value) if isinstance(value, list) else value

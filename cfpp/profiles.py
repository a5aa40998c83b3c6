"""Named overrides of params.yaml.

A profile is a partial params.yaml. Applying one edits params.yaml in place, comments kept, so that
`git diff params.yaml` shows exactly what it did and DVC sees ordinary parameter changes.
"""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from cfpp.config import ParamsError, parse_params


def apply_profile(profile: Path, params: Path) -> list[str]:
    """Merge `profile` into `params` and return the dotted keys whose values changed.

    Lists and scalars are replaced, mappings merged. `params` is replaced atomically, and only when
    the result is a valid params.yaml.

    Raises:
        ParamsError: a key of the profile is unknown, or the result is not valid.
        FileNotFoundError: there is no such profile; the message lists those that exist.
    """
    if not profile.is_file():
        known = ", ".join(sorted(path.stem for path in profile.parent.glob("*.yaml"))) or "none"
        raise FileNotFoundError(f"{profile}: no such profile; there are: {known}")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    tree = yaml.load(params.read_text(encoding="utf-8"))
    changed = _merge(tree, yaml.load(profile.read_text(encoding="utf-8")), str(profile), "")
    text = io.StringIO()
    yaml.dump(tree, text)
    try:
        parse_params(YAML(typ="safe").load(text.getvalue()))
    except ParamsError as error:
        raise ParamsError(f"{profile}: {error}") from None
    partial = params.with_suffix(".yaml.tmp")
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(params)
    return changed


def _flow_sequence(values: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()  # [a, b], as params.yaml writes its lists
    return sequence


def _merge(tree: Any, overrides: dict[str, Any], profile: str, where: str) -> list[str]:
    changed = []
    for key, value in overrides.items():
        dotted = f"{where}.{key}" if where else key
        if key not in tree:
            raise ParamsError(f"{profile}: unknown key {dotted}")
        if isinstance(value, dict):
            changed += _merge(tree[key], value, profile, dotted)
        elif tree[key] != value:
            tree[key] = _flow_sequence(value) if isinstance(value, list) else value
            changed.append(dotted)
    return changed

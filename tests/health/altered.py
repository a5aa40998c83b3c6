"""params.yaml with some of its values changed."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cfpp.config import Params, parse_params

PARAMS_FILE = Path(__file__).resolve().parents[2] / "params.yaml"


def params_with(**changes: Any) -> Params:
    """The project's params with values changed, each named with __ for the dots of its key."""
    tree = YAML(typ="safe").load(PARAMS_FILE.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = tree
        for part in sections:
            section[part] = dict(section[part])  # sections that YAML merged are shared
            section = section[part]
        assert name in section, key
        section[name] = value
    return parse_params(tree)

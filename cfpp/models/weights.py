"""Models on disk: safetensors beside a JSON card. Nothing that is read here can run code.

A folder holds ``model.safetensors`` and ``card.json``; the card has the sha256 of the weights, so that a
folder of which only one file was replaced (a killed run) is refused instead of read.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cfpp.errors import MendableError

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
_NAMED_MISMATCHES = 3


class WeightsError(MendableError, ValueError):
    """Weights are missing, damaged, never trained, or do not fit the model; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a model, beside its weights.

    Attributes:
        kind: what the weights are: vqautoencoder, codeformer, dam, tgrn, ...
        config: what rebuilds the network (geometry, image size) and how it was trained.
        steps: optimiser steps behind the weights; 0 = never trained.
        data_manifest_sha256: the data it was trained on; "" when that is not known.
        git_commit: the code that trained it; "" when not known.
        source: where the weights come from, in words or as a run name.
        started_from: sha256 of the weights files that the training began with, by what they are.
        metrics: held-out figures.
        parameters: number of values in the weights; filled in by `save_model`.
        sha256: of the weights file; filled in by `save_model`.
    """

    kind: str
    config: Mapping[str, Any]
    steps: int
    data_manifest_sha256: str = ""
    git_commit: str = ""
    source: str = ""
    started_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parameters: int = 0
    sha256: str = ""


def save_model(
    folder: str | Path, model: nn.Module | Mapping[str, Tensor], card: Card, dtype: torch.dtype | None = None
) -> Card:
    """Write weights and card into ``folder``, each by an atomic rename.

    Args:
        folder: made when absent; what it held is replaced.
        model: a module or a state dict.
        card: its ``parameters`` and ``sha256`` are computed here.
        dtype: storage type of floating-point tensors, e.g. ``torch.float16``; None keeps theirs.

    Returns:
        The card as written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for key, value in state.items()
    }
    weights = folder / f"{WEIGHTS_FILE}.tmp"
    save_file(tensors, weights)
    card = dataclasses.replace(
        card, parameters=sum(value.numel() for value in tensors.values()), sha256=file_sha256(weights)
    )
    note = folder / f"{CARD_FILE}.tmp"
    text = json.dumps(dataclasses.asdict(card), indent=2, sort_keys=True) + "\n"
    note.write_text(text, encoding="utf-8")
    for path in (weights, note):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.rename(path.with_suffix(""))
    return card


def read_card(folder: str | Path) -> Card:
    """The card in ``folder``.

    Raises:
        WeightsError: it is missing or not a card.
    """
    path = Path(folder) / CARD_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Card(**fields)
    except FileNotFoundError:
        raise WeightsError(f"{path}: not found") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise WeightsError(f"{path}: not a model card: {error}") from None


def read_config(folder: str | Path, *keys: str) -> Mapping[str, Any]:
    """The config on the card in ``folder``.

    Raises:
        WeightsError: there is no card, or config lacks one of ``keys``.
    """
    config = read_card(folder).config
    missing = [key for key in keys if key not in config]
    if missing:
        raise WeightsError(f"{Path(folder) / CARD_FILE}: config lacks {', '.join(missing)}; train it again")
    return config


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a model folder, a ``.safetensors`` file or a ``.pth`` checkpoint.

    A ``.pth`` is read with ``weights_only=True``; the weights may lie under ``params_ema`` or ``params``.

    Raises:
        WeightsError: missing, damaged, or not a state dict of tensors.
    """
    path = Path(path)
    if path.is_dir():
        card, weights = read_card(path), path / WEIGHTS_FILE
        if not weights.is_file():
            raise WeightsError(f"{weights}: not found")
        if card.sha256 != file_sha256(weights):
            raise WeightsError(f"{weights}: sha256 differs from the one on its card; copy or train it again")
        return _read_safetensors(weights)
    if not path.is_file():
        raise WeightsError(f"{path}: not found")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"{path}: not a checkpoint of plain tensors: {_reason(error)}") from None
    for wrapper in ("params_ema", "params"):
        if isinstance(content, dict) and wrapper in content:
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no state dict, bare or under params_ema or params")
    return dict(content)


def load_weights(
    model: nn.Module, path: str | Path, *, kind: str | None = None, trained: bool = False
) -> Card | None:
    """Load ``path`` (see `read_state`) into ``model``, keys and shapes exactly; types are converted.

    Args:
        model: changed in place, only if everything fits.
        path: folder or file.
        kind: refuse a card of another kind.
        trained: refuse a folder whose card says 0 steps.

    Returns:
        The card, or None for a bare file.

    Raises:
        WeightsError: naming the first mismatches.
    """
    path = Path(path)
    card = read_card(path) if path.is_dir() else None
    if card is not None and kind is not None and card.kind != kind:
        raise WeightsError(f"{path}: holds a {card.kind}, not a {kind}")
    if card is not None and trained and card.steps <= 0:
        raise WeightsError(f"{path}: was never trained (0 steps on its card)")
    state = read_state(path)
    check_fit(path, model.state_dict(), state)
    model.load_state_dict(state)
    return card


def check_fit(path: str | Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Whether the tensors ``found`` in ``path`` have the ``expected`` keys and shapes, no more and no fewer.

    Raises:
        WeightsError: naming the first mismatches.
    """
    lines = []
    for key, value in expected.items():
        if key not in found:
            lines.append(f"{key} is missing")
        elif found[key].shape != value.shape:
            lines.append(f"{key} is {tuple(found[key].shape)}, expected {tuple(value.shape)}")
    lines += [f"{key} is unknown" for key in sorted(found) if key not in expected]
    if lines:
        first = "; ".join(lines[:_NAMED_MISMATCHES])
        raise WeightsError(f"{path}: {len(lines)} mismatches with the model; first: {first}")


def _reason(error: Exception) -> str:
    """What the file tried to run, or the first line of torch's advice, which is long and unsafe to follow."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class|operand) \S+", str(error))
    return found.group() if found else (str(error).splitlines() or [type(error).__name__])[0]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file: {error}") from None


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

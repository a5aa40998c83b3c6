"""Models on disk: safetensors beside a JSON card. Nothing that is read here can run code.

A folder holds ``model.safetensors`` and ``card.json``; the card has the sha256 of the weights, so that a
folder of which only one file was replaced (a killed run) is refused instead of read.
"""

import dataclasses
import json
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
from cfpp.files import file_digest, replacing

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
SAFE_TORCH = "2.10"
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
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for key, value in state.items()
    }
    with replacing(folder / CARD_FILE) as note, replacing(folder / WEIGHTS_FILE) as weights:
        try:
            save_file(tensors, weights)
        except SafetensorError as error:  # a full disk, or no right to write
            raise OSError(f"{weights}: {error}") from error
        count = sum(value.numel() for value in tensors.values())
        card = dataclasses.replace(card, parameters=count, sha256=file_digest(weights))
        text = json.dumps(dataclasses.asdict(card), indent=2, sort_keys=True) + "\n"
        note.write_text(text, encoding="utf-8")
    return card


def read_card(folder: str | Path) -> Card:
    """The card in ``folder``.

    Raises:
        WeightsError: it is missing or not a card.
    """
    path = Path(folder) / CARD_FILE
    try:
        card = Card(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"{path}: not found; a model is a folder with its card") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise WeightsError(f"{path}: not a model card: {error}") from None
    if not (isinstance(card.steps, int) and isinstance(card.config, dict)):
        raise WeightsError(f"{path}: not a model card: steps must be a number, config an object")
    return card


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
        if card.sha256 != file_digest(weights):
            raise WeightsError(f"{weights}: sha256 differs from the one on its card; copy or train it again")
        return _read_safetensors(weights)
    if not path.is_file():
        raise WeightsError(f"{path}: not found")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if torch.__version__ < SAFE_TORCH:
        raise WeightsError(
            f"{path}: torch before {SAFE_TORCH} can be made to run code by a checkpoint (CVE-2026-24747); "
            f"update torch, or convert the file to .safetensors elsewhere"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever it comes upon
        raise WeightsError(f"{path}: not a checkpoint of plain tensors: {_reason(error)}") from None
    for wrapper in ("params_ema", "params"):
        if isinstance(content, dict) and wrapper in content:
            content = content[wrapper]
            break
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds no state dict, bare or under params_ema or params")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: holds no state dict: {key!r} is not the name of a tensor")
    return dict(content)


def load_weights(model: nn.Module, folder: str | Path, kind: str) -> Card:
    """Load a trained model's folder into ``model``, keys and shapes exactly; types are converted.

    Args:
        model: changed in place, only if everything fits.
        folder: as `save_model` wrote it.
        kind: what its card must say that it is.

    Returns:
        The card.

    Raises:
        WeightsError: of another kind, never trained (0 steps), damaged, or naming the first mismatches.
    """
    card = read_card(folder)
    if card.kind != kind:
        raise WeightsError(f"{folder}: holds a {card.kind}, not a {kind}")
    check_trained(folder, card)
    state = read_state(folder)
    check_fit(folder, model.state_dict(), state)
    model.load_state_dict(state)
    return card


def check_trained(source: str | Path, card: Card) -> None:
    """Whether the model of ``source`` was trained at all, by its card.

    Raises:
        WeightsError: it was not.
    """
    if card.steps <= 0:
        raise WeightsError(f"{source}: was never trained (0 steps on its card)")


def check_fit(source: str | Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Whether what was ``found`` in ``source`` has the ``expected`` keys and shapes, no more and no fewer.

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
        raise WeightsError(f"{source}: {len(lines)} mismatches with the model; first: {first}")


def _reason(error: Exception) -> str:
    """What the file tried to run, or the first line of torch's advice, which is long and unsafe to follow."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class|operand) \S+", str(error))
    return found.group() if found else (str(error).splitlines() or [type(error).__name__])[0]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file: {error}") from None

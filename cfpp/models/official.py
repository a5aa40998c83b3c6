"""Checkpoints in the layout of the published CodeFormer, in and out."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cfpp.files import file_digest, replacing
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import OFFICIAL_NETWORK, OFFICIAL_SIZE, network_config
from cfpp.models.weights import (
    Card,
    WeightsError,
    check_fit,
    check_trained,
    read_card,
    read_state,
    save_model,
)

# A bare checkpoint does not say how long it was trained, only that it was.
UNKNOWN_STEPS = 1
_ONLY_IN_CODEFORMER = "position_emb"
_KINDS: dict[str, type[nn.Module]] = {"codeformer": CodeFormer, "vqautoencoder": VQAutoEncoder}


def read_checkpoint(file: str | Path) -> tuple[dict[str, Tensor], Card]:
    """State dict (float32) and card of an official checkpoint: the whole network, or stage 1 alone.

    Args:
        file: ``.pth`` with the state dict under ``params_ema`` or ``params``, or bare. Read without running
            code; every key and shape must be that of the published 512 x 512 network.

    Returns:
        The weights, and a card for them: kind ``codeformer`` or ``vqautoencoder``, and in ``source`` the
        file's name and sha256.

    Raises:
        WeightsError: missing, damaged, not finite, never trained, or of another network; names the first
            tensors at fault.
    """
    file = Path(file)
    if file.is_dir():
        raise WeightsError(f"{file}: a folder; a checkpoint is one file")
    state = read_state(file)
    kind = "codeformer" if _ONLY_IN_CODEFORMER in state else "vqautoencoder"
    # Cloned, for tensors that share memory in the file could not be written as safetensors.
    return {key: value.float().clone() for key, value in _checked(file, kind, state).items()}, Card(
        kind=kind,
        config=network_config(OFFICIAL_NETWORK, OFFICIAL_SIZE),
        steps=UNKNOWN_STEPS,
        source=f"{file.name}, sha256 {file_digest(file)}",
    )


def import_checkpoint(file: str | Path, folder: str | Path | None = None) -> tuple[Path, Card]:
    """Make a model folder of an official checkpoint; it is written only when everything fits.

    Args:
        file: see `read_checkpoint`.
        folder: where to; None for models/codeformer or models/vqautoencoder.

    Returns:
        The folder, and its card.

    Raises:
        WeightsError: see `read_checkpoint`.
    """
    state, card = read_checkpoint(file)
    folder = Path(folder or Path("models") / card.kind)
    return folder, save_model(folder, state, card)


def export_checkpoint(folder: str | Path, file: str | Path) -> int:
    """Write a prior's model folder as a ``.pth`` which the public CodeFormer code loads strictly.

    The state dict lies under ``params_ema``, its keys in the network's own order, in float32.

    Args:
        folder: of a trained codeformer or vqautoencoder. That code builds only the published network, so a
            prior of another geometry is of no use to it, and is refused.
        file: replaced in one step.

    Returns:
        The number of tensors.

    Raises:
        WeightsError: missing, damaged, never trained, of another geometry, or no part of CodeFormer.
    """
    file, card = Path(file), read_card(folder)
    if card.kind not in _KINDS:
        raise WeightsError(f"{folder}: holds a {card.kind}, not a codeformer or a vqautoencoder")
    check_trained(folder, card)
    if file.is_dir():
        raise WeightsError(f"{file}: a folder; name the .pth to write")
    state = _checked(folder, card.kind, read_state(folder))
    ordered = {key: state[key].float() for key in _published(card.kind).state_dict()}
    with replacing(file) as partial, partial.open("wb") as stream:
        torch.save({"params_ema": ordered}, stream)
    return len(ordered)


def _checked(source: str | Path, kind: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``state``, if it is that of the published network, of real numbers, and trained."""
    network = _published(kind)
    check_fit(f"{source} (the published {kind})", network.state_dict(), state)
    unfit = [key for key, value in state.items() if not _finite(value)]
    if unfit:
        raise WeightsError(f"{source}: {len(unfit)} tensors hold no finite real numbers; first: {unfit[0]}")
    norms = [name for name, part in network.named_modules() if isinstance(part, nn.GroupNorm)]
    if all((state[f"{name}.weight"] == 1).all() and (state[f"{name}.bias"] == 0).all() for name in norms):
        raise WeightsError(f"{source}: was never trained: {norms[0]} and all its kind are as initialised")
    return state


def _finite(value: Tensor) -> bool:
    dense = value.layout == torch.strided and not value.is_meta
    return dense and value.is_floating_point() and bool(value.float().isfinite().all())


def _published(kind: str) -> nn.Module:
    """Shapes only: without memory for the weights."""
    with torch.device("meta"):
        return _KINDS[kind](OFFICIAL_NETWORK, OFFICIAL_SIZE)

"""Checkpoints in the layout of the published CodeFormer, in and out."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import OFFICIAL_NETWORK, OFFICIAL_SIZE, network_config, network_of
from cfpp.models.weights import Card, WeightsError, check_fit, file_sha256, read_card, read_state, save_model
from cfpp.training_params import NetworkParams

# A bare checkpoint does not say how long it was trained, only that it was.
UNKNOWN_STEPS = 1
_ONLY_IN_CODEFORMER = "position_emb"


def read_checkpoint(file: str | Path) -> tuple[dict[str, Tensor], Card]:
    """State dict (float32) and card of an official checkpoint: the whole network, or stage 1 alone.

    Args:
        file: ``.pth`` with the state dict under ``params_ema`` or ``params``, or bare. Read without running
            code; every key and shape must be that of the published 512 x 512 network.

    Returns:
        The weights, and a card for them: kind ``codeformer`` or ``vqautoencoder``, and in ``source`` the
        file's name and sha256.

    Raises:
        WeightsError: missing, damaged, not finite, or of another network; names the first tensors at fault.
    """
    file = Path(file)
    if file.is_dir():
        raise WeightsError(f"{file}: a folder; a checkpoint is one file")
    state = {key: value.float() for key, value in read_state(file).items()}
    kind = "codeformer" if _ONLY_IN_CODEFORMER in state else "vqautoencoder"
    check_fit(file, _network(kind, OFFICIAL_NETWORK, OFFICIAL_SIZE).state_dict(), state)
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{file}: {len(broken)} tensors hold values that are not finite; first: {broken[0]}"
        )
    return state, Card(
        kind=kind,
        config=network_config(OFFICIAL_NETWORK, OFFICIAL_SIZE),
        steps=UNKNOWN_STEPS,
        source=f"{file.name}, sha256 {file_sha256(file)}",
    )


def import_checkpoint(file: str | Path, folder: str | Path) -> Card:
    """Make a model folder of an official checkpoint; it is written only when everything fits.

    Raises:
        WeightsError: see `read_checkpoint`.
    """
    return save_model(folder, *read_checkpoint(file))


def export_checkpoint(folder: str | Path, file: str | Path) -> int:
    """Write a prior's model folder as a ``.pth`` which the public CodeFormer code loads strictly.

    The state dict lies under ``params_ema``, its keys in the network's own order, in float32.

    Args:
        folder: of a codeformer or a vqautoencoder, of any geometry.
        file: replaced in one step.

    Returns:
        The number of tensors.

    Raises:
        WeightsError: missing, damaged, or no part of CodeFormer.
    """
    file, card = Path(file), read_card(folder)
    if card.kind not in ("codeformer", "vqautoencoder"):
        raise WeightsError(f"{folder}: holds a {card.kind}, not a codeformer or a vqautoencoder")
    network, image_size = network_of(card.config)
    expected, state = _network(card.kind, network, image_size).state_dict(), read_state(folder)
    check_fit(folder, expected, state)
    ordered: dict[str, Tensor] = {key: state[key].float() for key in expected}
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.tmp")
    torch.save({"params_ema": ordered}, unfinished)
    unfinished.replace(file)
    return len(ordered)


def _network(kind: str, network: NetworkParams, image_size: int) -> nn.Module:
    """Shapes only: without memory for the weights."""
    with torch.device("meta"):
        return (CodeFormer if kind == "codeformer" else VQAutoEncoder)(network, image_size)

"""The prior: whatever turns a degraded face into its two restorations."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cfpp.config import ParamsError, to_dict
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.weights import WeightsError, load_weights, read_card
from cfpp.training_params import NetworkParams

OFFICIAL_SIZE = 512
OFFICIAL_NETWORK = NetworkParams(
    width=64,
    multipliers=(1, 2, 2, 4, 4, 8),
    res_blocks=2,
    codebook_size=1024,
    embed_dim=256,
    transformer_dim=512,
    transformer_heads=8,
    transformer_layers=9,
    fuse=(32, 64, 128, 256),
)


class Prior(Protocol):
    """Anything that restores a face both ways."""

    def restore_pair(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        """I_F (identity-preserving) and I_G (generative), both [B, 3, S, S] in [-1, 1] as ``lq``."""
        ...


def network_config(network: NetworkParams, image_size: int) -> dict[str, Any]:
    """What a card's ``config`` must hold for `network_of` to rebuild the network."""
    return {"network": to_dict(network), "image_size": image_size}


def network_of(config: Mapping[str, Any], source: str | Path) -> tuple[NetworkParams, int]:
    """Geometry and image size from the ``config`` of a card.

    Args:
        source: where the card is from, for the error.

    Raises:
        WeightsError: they are not there or not valid.
    """
    try:
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in config["network"].items()
        }
        return NetworkParams(**fields), int(config["image_size"])
    except (KeyError, TypeError, ValueError, AttributeError, ParamsError) as error:
        expected = ", ".join(field.name for field in dataclasses.fields(NetworkParams))
        raise WeightsError(f"{source}: no valid network ({expected}) and image_size: {error}") from None


def load_prior(folder: str | Path) -> CodeFormer:
    """A frozen CodeFormer in eval mode, on the CPU, in float32.

    Args:
        folder: a model folder, whose card gives the geometry.

    Raises:
        WeightsError: missing, never trained, or not exactly this network; the message names the mismatches.
    """
    model = CodeFormer(*network_of(read_card(folder).config, folder))
    load_weights(model, folder, "codeformer")
    return model.eval().requires_grad_(False)


def load_stage_one(folder: str | Path, network: NetworkParams, image_size: int) -> VQAutoEncoder:
    """The frozen, trained autoencoder of stage 1, on the CPU.

    Raises:
        WeightsError: it does not fit or was never trained.
    """
    autoencoder = VQAutoEncoder(network, image_size)
    load_weights(autoencoder, folder, "vqautoencoder")
    return autoencoder.eval().requires_grad_(False)

"""Prior, DAM and TGRN of a few thousand weights by a seed, saved as the training stages save them."""

from pathlib import Path

import torch

from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.dam import DAM
from cfpp.models.prior import network_config
from cfpp.models.tgrn import TGRN
from cfpp.models.weights import Card, save_model
from cfpp.training_params import NetworkParams

SIZE = 64
NETWORK = NetworkParams(
    width=32,
    multipliers=(1, 1, 1),
    res_blocks=1,
    codebook_size=32,
    embed_dim=32,
    transformer_dim=32,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)
DAM_CONFIG = {"widths": [4, 8, 8], "integration_steps": 0}
TGRN_CONFIG = {"widths": [8, 8, 8], "res_blocks": 1, "texture_attention": True, "spatial_attention": False}


def write_models(
    folder: Path,
    alignment: str = "dam",
    prior_kind: str = "codeformer",
    steps: int = 1,
    seed: int = 7,
    change: float = 0.1,
) -> Path:
    """Write prior/, dam/ and tgrn/ into `folder`; each of the three visibly does something.

    `change` is how much TGRN does to I_F: by chance, so that more is worse.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = CodeFormer(NETWORK, SIZE)
        dam = DAM(tuple(DAM_CONFIG["widths"]), DAM_CONFIG["integration_steps"])
        tgrn = TGRN(widths=(8, 8, 8), res_blocks=1, texture_attention=True, spatial_attention=False)
        # both start at "change nothing"; these have learnt something
        torch.nn.init.normal_(dam.flow.weight, 0.0, 0.5)
        torch.nn.init.normal_(tgrn.last.weight, 0.0, change)
    save_model(
        folder / "prior", prior, Card(kind="codeformer", config=network_config(NETWORK, SIZE), steps=steps)
    )
    save_model(folder / "dam", dam, Card(kind="dam", config=DAM_CONFIG, steps=steps))
    served = {"alignment": alignment, "prior_kind": prior_kind, "size": SIZE}
    card = Card(kind="tgrn", config=TGRN_CONFIG | served, steps=steps)
    save_model(folder / "tgrn", tgrn, card)
    return folder

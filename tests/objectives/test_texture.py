"""TGRN's objective: which losses run, what they read, what reaches the network, and that it learns."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpp.config import ParamsError, load_params
from cfpp.data.components import component_mask
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import network_config
from cfpp.models.weights import Card, WeightsError, save_model
from cfpp.objectives import texture
from cfpp.objectives.texture import TextureSpec
from cfpp.training_params import NetworkParams, TrainTgrnParams

PARAMS = Path(__file__).parents[2] / "params.yaml"
SIZE = 64
NETWORK = NetworkParams(
    width=32,
    multipliers=(1, 1, 2),
    res_blocks=1,
    codebook_size=8,
    embed_dim=256,
    transformer_dim=32,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    card = Card(kind="codeformer", config=network_config(NETWORK, SIZE), steps=1)
    save_model(folder, CodeFormer(NETWORK, SIZE), card)
    return str(folder)


@pytest.fixture(scope="module")
def params() -> TrainTgrnParams:
    section = load_params(PARAMS).train_tgrn
    return replace(
        section, widths=(8, 12, 16), res_blocks=1, discriminator_width=8, discriminator_layers=2,
        discriminator_start=5, metric_weight=0.02, identity_weight=0.0, alignment="dam", negatives=("id",),
    )  # fmt: skip


def faces(*columns: str, count: int = 2) -> dict[str, Tensor]:
    """I_F smooth, I_warp with its own texture, I_G as I_warp but moved."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 1.6 - 0.8
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(-0.8, 0.8)
    grain = 0.2 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    warp = smooth + grain.roll(1, 2)
    mask = torch.from_numpy(component_mask(SIZE, 0.02))
    every = {
        "hq": smooth + grain,
        "id": smooth,
        "gp": warp.roll(3, 3),
        "warp": warp,
        "ap": mask * smooth + (1 - mask) * warp,
    }
    return {name: every[name] for name in columns}


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, ("hq", "id", "warp", "ap")),
        ({"negatives": ("id", "gp")}, ("hq", "id", "gp", "warp", "ap")),
        ({"metric_weight": 0.0, "negatives": ("id", "gp")}, ("hq", "id", "warp")),
        ({"alignment": "none"}, ("hq", "id", "gp")),
    ],
)
def test_columns_are_what_the_losses_read(
    prior: str, params: TrainTgrnParams, changes: dict[str, Any], columns: tuple[str, ...]
) -> None:
    spec = pickle.loads(
        pickle.dumps(TextureSpec(replace(params, **changes), SIZE, prior, "", procedural=True))
    )
    assert spec.columns == columns
    objective = spec.build()
    batch = faces(*columns)
    assert objective.step(batch, 0).loss.isfinite()
    assert objective.validate(objective.model, batch)["psnr"].isfinite()
    sheet = objective.pictures(objective.model, batch)
    assert sheet is not None
    assert sheet.shape == (3, 2 * SIZE, 5 * SIZE)


def test_the_loss_is_the_weighted_sum_of_what_is_logged(prior: str, params: TrainTgrnParams) -> None:
    torch.manual_seed(0)
    weights = {"perceptual_weight": 0.7, "metric_weight": 0.3, "adversarial_weight": 0.2}
    params = replace(params, identity_weight=0.0, **weights)
    objective = TextureSpec(params, SIZE, prior, "", procedural=True).build()
    torch.nn.init.normal_(objective.model.last.weight, std=0.1)
    batch = faces("hq", "id", "warp", "ap")
    early, late = objective.step(batch, 4), objective.step(batch, 5)
    logs = early.logs
    expected = logs["l1"] + 0.7 * logs["perceptual"] + 0.3 * logs["triplet"]
    assert early.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert "adversarial" not in logs
    added = 0.2 * late.logs["adaptive_weight"] * late.logs["adversarial"]
    assert 0 < late.logs["adaptive_weight"] <= 1
    assert late.loss.item() == pytest.approx((early.loss + added).item(), rel=1e-5)
    assert late.fake is not None
    assert late.fake.requires_grad
    assert late.real is batch["hq"]
    assert set(logs) == {
        "loss",
        "l1",
        "perceptual",
        "triplet",
        "triplet_active",
    }


@pytest.mark.parametrize("extra", [0.0, 3.0])
def test_l1_counts_more_on_the_components(params: TrainTgrnParams, extra: float) -> None:
    off = replace(params, metric_weight=0.0, perceptual_weight=0.0, adversarial_weight=0.0)
    objective = TextureSpec(replace(off, component_weight=extra), SIZE, "", "", procedural=True).build()
    batch = faces("hq", "id", "warp")
    wanted = np.abs((batch["id"] - batch["hq"]).double().numpy())  # an untrained TGRN gives I_F
    weights = 1 + extra * component_mask(SIZE, objective.spec.feather).astype(np.float64)
    expected = np.average(wanted.mean((0, 1)), weights=weights)
    assert objective.step(batch, 0).logs["l1"].item() == pytest.approx(expected, rel=1e-5)


def test_an_embedding_whose_weights_are_missing_is_named(prior: str, params: TrainTgrnParams) -> None:
    spec = TextureSpec(replace(params, embedding="vgg"), SIZE, prior, "", procedural=True)
    with pytest.raises(ParamsError, match=r"train_tgrn\.embedding: vgg: needs vgg16"):
        spec.build()


def test_gradients_reach_the_network_and_nothing_else(prior: str, params: TrainTgrnParams) -> None:
    objective = TextureSpec(params, SIZE, prior, "", procedural=True).build()
    torch.nn.init.normal_(objective.model.last.weight, std=0.1)
    objective.train()
    objective.step(faces("hq", "id", "warp", "ap"), 5).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.model.parameters())
    reached = {name.split(".")[0] for name, p in objective.named_parameters() if p.grad is not None}
    assert reached == {"model"}
    learnt = {name.split(".")[0] for name, p in objective.named_parameters() if p.requires_grad}
    assert learnt == {"model", "discriminator"}
    assert objective.embedding is not None
    assert not objective.embedding.training


def test_the_triplet_starts_at_the_negative_i_f_and_ends_at_the_anchor_positive(
    prior: str, params: TrainTgrnParams
) -> None:
    margin = 0.5
    spec = TextureSpec(replace(params, metric_margin=margin), SIZE, prior, "", procedural=True)
    objective = spec.build()
    batch = faces("hq", "id", "gp", "warp", "ap")
    logs = objective.step(batch, 0).logs  # an untrained TGRN gives I_F
    assert logs["triplet"].item() == pytest.approx(1 + margin, abs=1e-2)
    assert logs["triplet_active"] == 1
    logs = objective.step({**batch, "id": batch["ap"], "ap": batch["id"]}, 0).logs
    assert logs["triplet"].item() == pytest.approx(1 + margin, abs=1e-2)
    # Two negatives: I_out is at one of them.
    both = replace(spec, params=replace(spec.params, negatives=("gp", "id"))).build()
    near = both.step({**batch, "id": batch["ap"], "ap": batch["ap"]}, 0).logs
    assert near["triplet"].item() == pytest.approx(margin, abs=1e-2)  # only p = n is left of the triplets


@pytest.mark.parametrize(
    "changes", [{"metric_weight": 0.0}, {"embedding": "prior", "metric_weight": 1.0}, {"negatives": ("gp",)}]
)
def test_every_choice_of_losses_starts_from_the_same_networks(
    prior: str, params: TrainTgrnParams, changes: dict[str, Any]
) -> None:
    def start(params: TrainTgrnParams) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        objective = TextureSpec(params, SIZE, prior, "", procedural=True).build()
        assert objective.discriminator is not None
        return {**objective.model.state_dict(), **objective.discriminator.state_dict()}

    first, second = start(params), start(replace(params, **changes))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_dam_the_anchor_positive_is_made_from_i_g(prior: str, params: TrainTgrnParams) -> None:
    spec = TextureSpec(replace(params, alignment="none"), SIZE, prior, "", procedural=True, feather=0.05)
    objective = spec.build()
    batch = faces("hq", "id", "gp")
    i_warp, i_ap = objective._guides(batch)
    assert i_warp is batch["gp"]
    mask = torch.from_numpy(component_mask(SIZE, 0.05))
    torch.testing.assert_close(i_ap, mask * batch["id"] + (1 - mask) * batch["gp"])


def test_weights_of_zero_load_and_compute_nothing(params: TrainTgrnParams) -> None:
    off = replace(params, metric_weight=0.0, perceptual_weight=0.0, adversarial_weight=0.0)
    objective = TextureSpec(off, SIZE, "no such prior", "", procedural=True).build()
    assert objective.discriminator is None
    assert objective.embedding is None
    result = objective.step(faces("hq", "id", "warp"), 100)
    assert set(result.logs) == {"loss", "l1"}
    assert result.fake is None
    assert result.real is None


def test_a_missing_prior_and_an_identity_loss_on_photographs_are_named(
    prior: str, params: TrainTgrnParams
) -> None:
    with pytest.raises(WeightsError, match="no such prior"):
        TextureSpec(params, SIZE, "no such prior", "", procedural=True).build()
    spec = TextureSpec(replace(params, identity_weight=1.0), SIZE, prior, "", procedural=False)
    with pytest.raises(ParamsError, match=r"train_tgrn\.identity_weight: above 0, but the loss needs"):
        spec.build()


def test_identity_loss_is_zero_for_the_same_face_and_trains(
    prior: str, params: TrainTgrnParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfpp.models.probe import Probe

    torch.manual_seed(0)
    monkeypatch.setattr(texture, "load_probe", lambda: Probe().eval().requires_grad_(False))
    spec = TextureSpec(
        replace(params, identity_weight=1.0, metric_weight=0.0), SIZE, prior, "", procedural=True
    )
    objective = spec.build().train()
    assert objective.identity is not None
    assert not objective.identity.training
    batch = faces("hq", "id", "warp")
    assert objective.step({**batch, "id": batch["hq"]}, 0).logs["identity"].item() == pytest.approx(
        0, abs=1e-5
    )
    result = objective.step(batch, 0)
    assert result.logs["identity"] > 0
    result.loss.backward()
    assert objective.model.last.weight.grad is not None
    assert objective.model.last.weight.grad.any()


def test_a_few_steps_beat_i_f_in_bf16_with_the_discriminator_on(prior: str, params: TrainTgrnParams) -> None:
    torch.manual_seed(0)
    objective = TextureSpec(replace(params, discriminator_start=0), SIZE, prior, "", procedural=True).build()
    batch = faces("hq", "id", "warp", "ap")
    # The warp holds the very texture that is missing.
    batch["warp"] = batch["hq"]
    optimiser = torch.optim.Adam(objective.model.parameters(), 5e-3)
    start = objective.validate(objective.model, batch)
    for step in range(25):
        with torch.autocast("cpu", torch.bfloat16):
            result = objective.step(batch, step)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
    end = objective.validate(objective.model, batch)
    assert start["psnr"].item() == pytest.approx(start["psnr_id"].item(), abs=1e-4)
    assert end["l1"] < 0.9 * start["l1"]
    assert end["perceptual"] < start["perceptual"]
    assert end["psnr"] > start["psnr_id"]

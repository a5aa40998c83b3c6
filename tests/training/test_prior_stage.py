"""A trained prior from elsewhere becomes the project's, or is refused with a reason."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cfpp.config import ParamsError, load_params
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import load_prior, network_config
from cfpp.models.weights import Card, WeightsError, read_card, save_model
from cfpp.training_params import NetworkParams
from pipelines.prior import EMBEDDED, bring_in

from .toy import same

NETWORK = NetworkParams(
    width=32,
    multipliers=(1, 1, 1),
    res_blocks=1,
    codebook_size=8,
    embed_dim=16,
    transformer_dim=16,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)


def session(root: Path, size: int) -> Any:
    """What `bring_in` needs of an open stage."""
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    params = replace(params, run=replace(params.run, size=size))
    ignore = SimpleNamespace(log_artifact=lambda path: None, set_tags=lambda tags: None)
    return SimpleNamespace(stage="prior", params=params, root=root, **vars(ignore))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = Card(kind="codeformer", config=network_config(NETWORK, 64), steps=7, metrics={"psnr_id": 20.0})
    save_model(tmp_path / "source", CodeFormer(NETWORK, 64), card, dtype=torch.float16)
    (tmp_path / "source" / "curves.csv").write_text("step,loss,val/psnr\n2,0.5,\n4,0.25,20.0\n")
    return tmp_path / "source"


def test_it_is_copied_with_its_card_and_curves(tmp_path: Path, source: Path) -> None:
    bring_in(session(tmp_path, 64), source)
    ours, theirs = load_prior(tmp_path / "models" / "prior"), load_prior(source)
    assert same(ours.state_dict(), theirs.state_dict())
    card = read_card(tmp_path / "models" / "prior")
    assert (card.steps, card.metrics) == (7, {"psnr_id": 20.0})
    curves = (tmp_path / "reports" / "curves" / "prior.csv").read_text()
    assert curves == "step,loss,val/psnr\n2,0.5,\n4,0.25,20.0\n"


def test_another_size_is_refused_before_anything_is_written(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ParamsError, match=r"64 x 64 pixels, but run\.size is 128"):
        bring_in(session(tmp_path, 128), source)
    assert not (tmp_path / "models").exists()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, source: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere: not found"):
        bring_in(session(tmp_path, 64), tmp_path / "nowhere")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="sha256"):
        bring_in(session(tmp_path, 64), source)


def test_stage_one_alone_is_no_prior(tmp_path: Path, shared: Path) -> None:
    layout = json.loads((shared / "codeformer" / "layout.json").read_text())["VQAutoEncoder"]
    state = {key: torch.zeros(1).expand(shape) for key, shape, *_ in layout["state_dict"]}
    torch.save({"params_ema": state}, tmp_path / "vqgan.pth")
    with pytest.raises(WeightsError, match="stage 1 alone"):
        bring_in(session(tmp_path, 512), tmp_path / "vqgan.pth")


def test_the_embedded_prior_is_refused_for_the_people_it_was_trained_on(tmp_path: Path) -> None:
    people = read_card(EMBEDDED).config["people"]
    stage = session(tmp_path, 128)
    bring_in(stage, EMBEDDED)
    assert people["seed"] != stage.params.run.seed
    stage.params = replace(stage.params, run=replace(stage.params.run, seed=people["seed"]))
    with pytest.raises(ParamsError, match=r"run\.seed: \d+ draws the people"):
        bring_in(stage, EMBEDDED)

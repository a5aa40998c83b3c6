"""Weights on disk: nothing that does not fit, was never trained, or could run code is ever loaded."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.torch_version import TorchVersion

from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.prior import load_prior, network_config
from cfpp.models.weights import Card, WeightsError, load_weights, read_card, read_state, save_model
from cfpp.training_params import NetworkParams

NETWORK = NetworkParams(
    width=32,
    multipliers=(1, 1),
    res_blocks=1,
    codebook_size=8,
    embed_dim=16,
    transformer_dim=16,
    transformer_heads=2,
    transformer_layers=1,
    fuse=(32,),
)
CARD = Card(kind="toy", config={"side": 4}, steps=7, metrics={"psnr": 20.5}, source="test")


def toy(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_round_trip(tmp_path: Path) -> None:
    model = toy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    written = save_model(tmp_path / "m", model, CARD)
    other = toy(1)
    assert not same(model, other)
    card = load_weights(other, tmp_path / "m", "toy")
    assert same(model, other)
    assert card == written == read_card(tmp_path / "m")
    values = sum(value.numel() for value in model.state_dict().values())
    assert card.parameters == values
    assert card.metrics == {"psnr": 20.5}
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["card.json", "model.safetensors"]


def test_same_model_gives_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, toy(), CARD)
    for file in ("model.safetensors", "card.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_half_precision_storage(tmp_path: Path) -> None:
    model = toy()
    save_model(tmp_path / "m", model, CARD, dtype=torch.float16)
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert stored["0.weight"].dtype == torch.float16
    assert stored["1.num_batches_tracked"].dtype == torch.int64
    other = toy(1)
    load_weights(other, tmp_path / "m", "toy")
    weight = other.get_parameter("0.weight")
    assert weight.dtype == torch.float32
    assert weight.equal(model.get_parameter("0.weight").half().float())


def test_names_mismatches_and_changes_nothing(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy(), CARD)
    other = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Identity(), nn.Linear(2, 2))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(other, tmp_path / "m", "toy")
    message = str(caught.value)
    assert "0.weight is (4, 3, 3, 3), expected (4, 3, 5, 5)" in message
    assert "2.weight is missing" in message
    assert "8 mismatches" in message
    assert all(value.equal(before[key]) for key, value in other.state_dict().items())


def test_refuses_unknown_keys(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy(), CARD)
    with pytest.raises(WeightsError, match=r"5 mismatches.* first: 1\.bias is unknown"):
        load_weights(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "m", "toy")


def test_refuses_other_kind_and_never_trained(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy(), dataclasses.replace(CARD, steps=0))
    with pytest.raises(WeightsError, match="holds a toy, not a dam"):
        load_weights(toy(), tmp_path / "m", "dam")
    with pytest.raises(WeightsError, match="never trained"):
        load_weights(toy(), tmp_path / "m", "toy")


def test_refuses_a_half_replaced_folder(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy(), CARD)
    save_model(tmp_path / "n", toy(1), CARD)
    (tmp_path / "n" / "model.safetensors").rename(tmp_path / "m" / "model.safetensors")
    with pytest.raises(WeightsError, match="sha256 differs"):
        load_weights(toy(), tmp_path / "m", "toy")


@pytest.mark.parametrize("damage", ["missing card", "missing weights", "no json", "other json"])
def test_refuses_damaged_folders(tmp_path: Path, damage: str) -> None:
    save_model(tmp_path, toy(), CARD)
    card = tmp_path / "card.json"
    if damage == "missing card":
        card.unlink()
    elif damage == "missing weights":
        (tmp_path / "model.safetensors").unlink()
    else:
        card.write_text("{" if damage == "no json" else json.dumps({"name": "x"}))
    with pytest.raises(WeightsError, match="not found" if "missing" in damage else "not a model card"):
        load_weights(toy(), tmp_path, "toy")


@pytest.mark.parametrize("wrapper", ["params_ema", "params", None])
def test_reads_published_checkpoints(tmp_path: Path, wrapper: str | None) -> None:
    state = toy().state_dict()
    worse = toy(1).state_dict()
    content = {"params": worse, wrapper: state} if wrapper else state
    torch.save(content, tmp_path / "c.pth")
    found = read_state(tmp_path / "c.pth")
    assert list(found) == list(state)
    assert all(found[key].equal(value) for key, value in state.items())


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_never_runs_a_pickle(tmp_path: Path) -> None:
    torch.save({"params_ema": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="not a checkpoint of plain tensors: Unsupported global: GLOBAL"):
        read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_torch_that_a_checkpoint_could_make_run_code_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(toy().state_dict(), tmp_path / "c.pth")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1+cu128"))
    with pytest.raises(WeightsError, match="CVE-2026-24747"):
        read_state(tmp_path / "c.pth")


def test_every_damaged_byte_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    torch.save({"params": toy().state_dict()}, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "c.pth").read_bytes()
    refused = []
    for place in range(0, len(whole), 7):
        (tmp_path / "d.pth").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_state(tmp_path / "d.pth")  # a flipped weight is still a weight
        except WeightsError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all(message.startswith(str(tmp_path / "d.pth")) for message in refused)


@pytest.mark.parametrize("content", [{1: torch.zeros(1)}, {"a": 1}, [torch.zeros(1)]])
def test_what_holds_no_names_and_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"c\.pth: holds no state dict"):
        read_state(tmp_path / "c.pth")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy(), CARD)
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    with pytest.raises(TypeError):
        save_model(tmp_path / "m", toy(1), dataclasses.replace(CARD, config={"side": object()}))
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
def test_refuses_what_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="not found"):
        read_state(tmp_path / name)
    (tmp_path / name).write_bytes(b"no weights in here")
    with pytest.raises(WeightsError, match=r"not a (checkpoint|safetensors)"):
        read_state(tmp_path / name)


def test_prior_is_rebuilt_from_its_card(tmp_path: Path) -> None:
    model = CodeFormer(NETWORK, 32)
    card = Card(kind="codeformer", config=network_config(NETWORK, 32), steps=1)
    save_model(tmp_path / "p", model, card)
    prior = load_prior(tmp_path / "p")
    assert prior.network == NETWORK
    assert prior.image_size == 32
    assert not prior.training
    assert not any(p.requires_grad for p in prior.parameters())
    lq = torch.rand(1, 3, 32, 32) * 2 - 1
    for found, expected in zip(prior.restore_pair(lq), model.restore_pair(lq), strict=True):
        assert found.equal(expected)


def test_prior_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    model = CodeFormer(NETWORK, 32)
    card = Card(kind="codeformer", config=network_config(NETWORK, 32), steps=0)
    save_model(tmp_path / "p", model, card)
    with pytest.raises(WeightsError, match="never trained"):
        load_prior(tmp_path / "p")
    save_model(tmp_path / "p", model, dataclasses.replace(card, config={"network": {"width": 32}}))
    with pytest.raises(WeightsError, match="no valid network"):
        load_prior(tmp_path / "p")
    torch.save(model.state_dict(), tmp_path / "small.pth")
    with pytest.raises(WeightsError, match="a model is a folder with its card"):
        load_prior(tmp_path / "small.pth")

"""Official checkpoints come in and go out; whatever is not one is refused, and nothing is half-written."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cfpp.cli import main
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.codeformer.codeformer import CodeFormer
from cfpp.models.official import export_checkpoint, import_checkpoint, read_checkpoint
from cfpp.models.prior import OFFICIAL_NETWORK, OFFICIAL_SIZE, network_config
from cfpp.models.weights import Card, WeightsError, read_card, save_model
from tests.tiny_models import NETWORK, SIZE

State = dict[str, Tensor]


def published(shared: Path, part: str) -> State:
    """Keys and shapes of the published file, read off the facts; one shared value a tensor, so that a file
    of it is small."""
    layout = json.loads((shared / "codeformer" / "layout.json").read_text())[part]
    values = torch.linspace(-1, 1, len(layout["state_dict"]))
    return {
        key: value.expand(shape) for (key, shape, *_), value in zip(layout["state_dict"], values, strict=True)
    }


@pytest.mark.parametrize(("part", "kind"), [("CodeFormer", "codeformer"), ("VQAutoEncoder", "vqautoencoder")])
@pytest.mark.parametrize("wrapper", ["params_ema", "params", None])
def test_every_wrapping_of_either_network_is_read(
    shared: Path, tmp_path: Path, part: str, kind: str, wrapper: str | None
) -> None:
    state = published(shared, part)
    torch.save({wrapper: state} if wrapper else state, tmp_path / "c.pth")
    found, card = read_checkpoint(tmp_path / "c.pth")
    assert list(found) == list(state)
    assert all(found[key].equal(value) for key, value in state.items())
    assert card.kind == kind
    assert card.steps > 0
    assert card.source.startswith("c.pth, sha256 ")


def test_there_and_back_through_the_commands(shared: Path, tmp_path: Path) -> None:
    state = published(shared, "CodeFormer")
    torch.save({"params_ema": state}, tmp_path / "codeformer.pth")
    assert main(["prior", "import", str(tmp_path / "codeformer.pth"), str(tmp_path / "prior")]) == 0
    assert read_card(tmp_path / "prior").parameters == 94_112_707
    out = tmp_path / "deep" / "ours.pth"
    assert main(["prior", "export", str(out), "--prior", str(tmp_path / "prior")]) == 0
    back = torch.load(out, weights_only=True)
    assert list(back) == ["params_ema"]
    assert list(back["params_ema"]) == list(state)
    assert all(back["params_ema"][key].equal(value) for key, value in state.items())
    assert [path.name for path in out.parent.iterdir()] == ["ours.pth"]


def test_half_precision_leaves_in_float32(shared: Path, tmp_path: Path) -> None:
    state = published(shared, "VQAutoEncoder")
    torch.save({"params_ema": state}, tmp_path / "c.pth")
    found, card = read_checkpoint(tmp_path / "c.pth")
    save_model(tmp_path / "p", found, card, dtype=torch.float16)
    export_checkpoint(tmp_path / "p", tmp_path / "p.pth")
    back = torch.load(tmp_path / "p.pth", weights_only=True)["params_ema"]
    assert {value.dtype for value in back.values()} == {torch.float32}
    assert all(back[key].equal(value.half().float()) for key, value in state.items())


def damaged(state: State, damage: str) -> State:
    key = "generator.blocks.3.conv1.weight"
    if damage == "missing":
        return {name: value for name, value in state.items() if name != key}
    if damage == "shape":
        return state | {key: state[key][:, :7]}
    if damage == "unknown":
        return state | {"generator.blocks.99.weight": torch.zeros(1)}
    values = {"nan": torch.full(state[key].shape, float("nan")), "int": torch.ones(state[key].shape).int()}
    values |= {"complex": state[key] * 1j, "sparse": torch.zeros(state[key].shape).to_sparse()}
    return state | {key: values[damage]}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("missing", r"generator\.blocks\.3\.conv1\.weight is missing"),
        ("shape", r"generator\.blocks\.3\.conv1\.weight is .*7.*expected"),
        ("unknown", r"generator\.blocks\.99\.weight is unknown"),
        ("nan", r"no finite real numbers; first: generator\.blocks\.3\.conv1\.weight"),
        ("int", r"no finite real numbers; first: generator\.blocks\.3\.conv1\.weight"),
        ("complex", r"no finite real numbers; first: generator\.blocks\.3\.conv1\.weight"),
        ("sparse", r"no finite real numbers; first: generator\.blocks\.3\.conv1\.weight"),
    ],
)
def test_a_checkpoint_at_fault_is_refused_by_its_first_tensor(
    shared: Path, tmp_path: Path, damage: str, named: str
) -> None:
    torch.save({"params_ema": damaged(published(shared, "CodeFormer"), damage)}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=named):
        import_checkpoint(tmp_path / "c.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_network_a_truncated_file_and_a_folder_are_refused(shared: Path, tmp_path: Path) -> None:
    torch.save({"params": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "other.pth")
    torch.save({"params_ema": published(shared, "VQAutoEncoder")}, tmp_path / "c.pth")
    whole = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    for name, named in (("other.pth", "mismatches"), ("cut.pth", "not a checkpoint"), (".", "folder")):
        with pytest.raises(WeightsError, match=named):
            import_checkpoint(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["codeformer", "vqautoencoder"])
def test_a_network_as_initialised_is_refused(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = (CodeFormer if kind == "codeformer" else VQAutoEncoder)(OFFICIAL_NETWORK, OFFICIAL_SIZE)
    torch.save(model.state_dict(), tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"c\.pth: was never trained"):
        read_checkpoint(tmp_path / "c.pth")


def test_what_is_no_official_prior_does_not_leave(shared: Path, tmp_path: Path) -> None:
    def refused(named: str, folder: str = "p", file: str = "out.pth") -> None:
        with pytest.raises(WeightsError, match=named):
            export_checkpoint(tmp_path / folder, tmp_path / file)
        assert not (tmp_path / "out.pth").exists()

    save_model(tmp_path / "p", torch.nn.Linear(2, 2), Card(kind="dam", config={}, steps=1))
    refused("holds a dam")
    card = Card(kind="codeformer", config=network_config(NETWORK, SIZE), steps=1)
    save_model(tmp_path / "p", CodeFormer(NETWORK, SIZE), card)
    refused(r"p \(the published codeformer\): \d+ mismatches")
    torch.save(published(shared, "VQAutoEncoder"), tmp_path / "c.pth")
    state, card = read_checkpoint(tmp_path / "c.pth")
    save_model(tmp_path / "p", state, card)
    refused("a folder; name the .pth to write", file="p")
    save_model(tmp_path / "p", state, dataclasses.replace(card, steps=0))
    refused("never trained")


def test_the_commands_say_in_a_line_what_is_wrong(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(published(shared, "VQAutoEncoder"), tmp_path / "c.pth")
    (tmp_path / "file").write_text("in the way")
    for arguments in (["import", "c.pth", "file"], ["export", "out.pth", "--prior", "c.pth"]):
        words = [arguments[0], *(w if w.startswith("-") else str(tmp_path / w) for w in arguments[1:])]
        assert main(["prior", *words]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert str(tmp_path) in line


def test_without_a_place_the_import_goes_to_models(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(published(shared, "VQAutoEncoder"), tmp_path / "c.pth")
    monkeypatch.chdir(tmp_path)
    assert main(["prior", "import", "c.pth"]) == 0
    assert read_card("models/vqautoencoder").parameters == 63_740_099

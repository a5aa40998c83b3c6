"""Schedule, average, curves and checkpoints, each against its closed form."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cfpp import imports
from cfpp.objectives.alignment import AlignmentSpec
from cfpp.training.checkpoint import FolderCheckpoints, read_state, write_state
from cfpp.training.curves import Curves
from cfpp.training.ema import Ema
from cfpp.training.job import run_name
from cfpp.training.schedule import learning_rate
from cfpp.training_params import TrainParams

from .toy import PARAMS


def test_the_rate_follows_torchs_cosine() -> None:
    params = replace(PARAMS, steps=50, learning_rate=3e-4, final_learning_rate=5e-5)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=params.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50, eta_min=5e-5)
    for step in range(50):
        assert learning_rate(params, step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        schedule.step()


def test_the_rate_halves_at_each_milestone_and_not_before() -> None:
    params = replace(PARAMS, learning_rate=1e-3, final_learning_rate=1e-3, milestones=(3, 7))
    rates = [learning_rate(params, step) for step in (0, 2, 3, 6, 7, 11)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


@pytest.mark.parametrize("start", [0, 34, 1000])
def test_the_average_is_the_geometric_sum_of_the_weights(start: int) -> None:
    model = nn.BatchNorm1d(1)
    model.bias.requires_grad_(False)
    nn.init.constant_(model.weight, 5.0)
    ema, decay = Ema(model, 0.8), 0.8
    history = [1.0, -2.0, 3.0]
    for value in history:
        nn.init.constant_(model.weight, value)
        nn.init.constant_(model.bias, value)
        model.get_buffer("running_mean").fill_(value)
        ema.update(start + history.index(value))
    expected = 5.0
    for step, value in enumerate(history, start):
        d = min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
    average = ema.module.state_dict()
    assert average["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert average["running_mean"].item() == 3.0
    assert average["bias"].item() == 0.0  # not trained, so it stays as it was
    assert not ema.module.training


def test_a_short_training_is_not_averaged_with_its_initialisation() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, -1.0)
    ema = Ema(model, 0.995)
    nn.init.constant_(model.weight, 1.0)
    for step in range(300):
        ema.update(step)
    assert ema.module.get_parameter("weight").item() > 0.999


def test_curves_are_wide_and_lose_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    curves = Curves(path)
    curves.add(1, {"loss": 0.5})
    kept = list(curves.rows)
    curves.add(2, {"loss": 0.25, "val/psnr": 20.0})
    curves.add(3, {"loss": 0.125})
    with path.open() as file:
        assert list(csv.DictReader(file)) == [
            {"step": "1", "loss": "0.5", "val/psnr": ""},
            {"step": "2", "loss": "0.25", "val/psnr": "20.0"},
            {"step": "3", "loss": "0.125", "val/psnr": ""},
        ]
    Curves(path, kept)
    assert path.read_text() == "step,loss\n1,0.5\n"


def test_checkpoints_keep_the_newest_and_a_torn_write_is_never_read(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path, keep=2)
    assert store.load() is None
    for step in (1, 2, 10):
        store.save({"step": step, "w": torch.full((2,), step)}, f"step{step:08d}", {})
    (tmp_path / "step00000011.pt.tmp").write_bytes(b"half")
    state = store.load()
    assert state is not None
    assert state["step"] == 10
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_state({"f": print}, tmp_path / "bad.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only|Unsupported"):
        read_state(tmp_path / "bad.pt")


def test_the_run_name_changes_with_params_data_and_the_code_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(section: TrainParams = PARAMS, data: str = "data sha") -> str:
        return run_name("train_dam", AlignmentSpec, section, data)

    before = name()
    assert before.startswith("train_dam-")
    assert name() == before
    assert name(replace(PARAMS, steps=13)) != before
    assert name(data="other sha") != before

    shutil.copytree(imports.ROOT / "cfpp", tmp_path / "cfpp", ignore=shutil.ignore_patterns("embedded"))
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    for module, decides in (
        ("cfpp/models/tgrn.py", False),
        ("cfpp/evaluation/table.py", False),
        ("cfpp/config.py", False),
        ("cfpp/training_params.py", False),
        ("cfpp/models/dam.py", True),
        ("cfpp/training/ema.py", True),
        ("cfpp/data/draws.py", True),
    ):
        text = (tmp_path / module).read_text()
        (tmp_path / module).write_text(text + "\nCHANGED = True\n")
        assert (name() != before) is decides, module
        (tmp_path / module).write_text(text)

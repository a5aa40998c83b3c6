"""The figures of a prior on a folder of faces, against the same computed by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfpp.config import load_params
from cfpp.data.shards import DataError
from cfpp.models.codeformer.autoencoder import VQAutoEncoder
from cfpp.models.prior import load_prior, network_config
from cfpp.models.weights import Card, WeightsError, read_card, save_model
from cfpp.synthesis.degraded import degrader
from pipelines import measure_prior
from tests.tiny_models import NETWORK, SIZE, write_models

REPOSITORY = Path(__file__).resolve().parents[1]


def name_codebook(prior: Path, sha256: str) -> None:
    card = json.loads((prior / "card.json").read_text())
    card["started_from"] = {"codebook": sha256}
    (prior / "card.json").write_text(json.dumps(card))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models, a stage 1, and a folder of twelve faces: more than a batch."""
    write_models(tmp_path / "models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        card = Card(kind="vqautoencoder", config=network_config(NETWORK, SIZE), steps=1)
        card = save_model(tmp_path / "codebook", VQAutoEncoder(NETWORK, SIZE), card)
    name_codebook(tmp_path / "models" / "prior", card.sha256)
    (tmp_path / "faces").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        Image.fromarray(picture).save(tmp_path / "faces" / f"f{number:02d}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean()))


def test_figures_are_those_of_the_pictures(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(REPOSITORY / "params.yaml")
    params = replace(params, run=replace(params.run, size=SIZE))
    monkeypatch.setattr(measure_prior, "load_params", lambda: params)
    arguments = ["faces", "--codebook", "codebook", "--out", "out", "--shown", "3"]
    monkeypatch.setattr(sys, "argv", ["measure_prior", *arguments])
    measure_prior.main()
    summary = json.loads((project / "out" / "figures.json").read_text())
    assert (summary["faces"], summary["pictures"]["id"]["psnr"]["n"]) == (12, 12)
    assert "identity" in summary["unavailable"]

    prior = load_prior("models/prior")
    by_hand: dict[str, list[float]] = {"lq": [], "id": [], "gp": []}
    for number in range(12):
        hq = np.asarray(Image.open(f"faces/f{number:02d}.png"))
        lq = degrader(params).degrade(f"f{number:02d}", hq, "test")[0].picture
        by_hand["lq"].append(psnr(lq, hq))
        tensor = torch.from_numpy(lq).permute(2, 0, 1)[None] / 127.5 - 1
        for name, image in zip(("id", "gp"), prior.restore_pair(tensor), strict=True):
            by_hand[name].append(psnr((image[0].permute(1, 2, 0).numpy() + 1) * 127.5, hq))
    for name, values in by_hand.items():
        assert summary["pictures"][name]["psnr"]["mean"] == pytest.approx(np.mean(values), abs=0.01)
    difference = summary["differences"]["id-gp"]["psnr"]["mean"]
    assert difference == pytest.approx(np.mean(by_hand["id"]) - np.mean(by_hand["gp"]), abs=0.01)
    texture = {name: summary["pictures"][name]["texture"]["mean"] for name in ("id", "gp")}
    assert summary["texture_gp_minus_id"]["mean"] == pytest.approx(texture["gp"] - texture["id"], abs=1e-4)
    autoencoder, used, recon = measure_prior.load_codebook(Path("codebook"), Path("models/prior")), set(), []
    for number in range(12):
        hq = np.asarray(Image.open(f"faces/f{number:02d}.png"))
        with torch.no_grad():
            out = autoencoder(torch.from_numpy(hq).permute(2, 0, 1)[None] / 127.5 - 1)
        used |= set(out.indices.flatten().tolist())
        recon.append(psnr(((out.picture.clamp(-1, 1)[0].permute(1, 2, 0).numpy()) + 1) * 127.5, hq))
    assert summary["pictures"]["recon"]["psnr"]["mean"] == pytest.approx(np.mean(recon), abs=0.01)
    assert summary["codebook"]["dead_codes"] == NETWORK.codebook_size - len(used)
    sheet = np.asarray(Image.open("out/faces.jpg"))
    assert sheet.shape == (3 * SIZE, 5 * SIZE, 3)


def test_what_is_missing_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    other_size = r"models/prior: for faces of 64 pixels, run\.size is 128"
    for arguments, message in (
        (["nowhere"], "nowhere"),
        (["faces", "--prior", "nowhere"], "nowhere"),
        (["faces"], other_size),
        (["faces", "--prior", "models/prior/model.safetensors"], "a model is a folder with its card"),
    ):
        monkeypatch.setattr(sys, "argv", ["measure_prior", *arguments])
        with pytest.raises(SystemExit, match=message):
            measure_prior.main()


def test_what_would_give_wrong_figures_is_refused(project: Path) -> None:
    params = load_params(REPOSITORY / "params.yaml")
    params = replace(params, run=replace(params.run, size=SIZE))
    faces, prior = project / "faces", project / "models" / "prior"
    name_codebook(prior, "another")
    with pytest.raises(WeightsError, match="not the stage 1 that"):
        measure_prior.measure(params, faces, prior, project / "codebook", 1)
    (faces / "f05.png").write_text("no picture")
    with pytest.raises(DataError, match=r"f05\.png: "):
        measure_prior.measure(params, faces, prior, None, 1)
    (faces / "f05.png").unlink()
    card, broken = read_card(prior), load_prior(prior)
    torch.nn.init.constant_(broken.generator.last_layer, torch.nan)
    save_model(prior, broken, card)
    with pytest.raises(WeightsError, match="not finite, first for f00"):
        measure_prior.measure(params, faces, prior, None, 1)

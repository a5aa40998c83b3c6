"""The evaluate stage on a small project: untrained networks, whose figures are known beforehand."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cfpp.config import Params, load_params
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import encode_png
from cfpp.data.shards import write_shard
from cfpp.evaluation.measure import KINDS
from cfpp.evaluation.metrics import psnr
from cfpp.models.dam import DAM
from cfpp.models.tgrn import TGRN
from cfpp.models.weights import Card, save_model
from pipelines.evaluate import evaluate

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
SIDE, PEOPLE, SHOTS, VARIANTS = 64, 3, 2, 2


def texture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE, 3)), (2, 2, 0))
    return np.clip(128 + 300 * smooth, 0, 255).astype(np.uint8)


def put(root: Path, stage: str, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    folder = root / "data" / stage
    done = write_shard(shard_path(folder, "test", 0), samples)
    manifest = Manifest()
    manifest.put(ShardRow("test", 0, done.count, done.bytes, done.sha256, "in", "config", 0), [])
    manifest.save(folder)


def make_project(root: Path, procedural: bool) -> None:
    keys = [f"p{person}s{shot}" for person in range(PEOPLE) for shot in range(SHOTS)]
    clean = {key: texture(number) for number, key in enumerate(keys)}

    def meta(key: str) -> bytes:
        facts: dict[str, Any] = {"identity": key[:2], "source": key}
        if procedural:
            facts |= {"landmarks5": [[1, 1]] * 5, "landmarks68": [[1, 1]] * 68}
        return json.dumps(facts).encode()

    def soft(picture: np.ndarray, sigma: float) -> bytes:
        return encode_png(ndimage.gaussian_filter(picture, (sigma, sigma, 0)))

    put(root, "shards", [(k, {"hq.png": encode_png(clean[k]), "meta.json": meta(k)}) for k in keys])
    restored, pairs = [], []
    for number, key in enumerate(keys):
        first: dict[str, bytes] = {}
        second: dict[str, bytes] = {}
        for v in range(VARIANTS):
            strange = encode_png(texture(100 + number))
            first |= {f"{v}.lq.png": soft(clean[key], 2 + v), f"{v}.id.png": soft(clean[key], 1)}
            first |= {f"{v}.gp.png": strange, f"{v}.draw.json": b"{}"}
            second |= {f"{v}.warp.png": strange, f"{v}.ap.png": encode_png(clean[key])}
            second |= {f"{v}.mask.png": encode_png(np.zeros((SIDE, SIDE), np.uint8))}
        restored.append((key, first))
        pairs.append((key, second))
    put(root, "restored", restored)
    put(root, "pairs", pairs)
    dam = {"widths": [4, 8], "integration_steps": 0}
    save_model(root / "models/dam", DAM((4, 8)), Card(kind="dam", config=dam, steps=1))
    tgrn = {"widths": [8, 8], "res_blocks": 0, "texture_attention": True, "spatial_attention": False}
    card = Card(kind="tgrn", config=tgrn | {"alignment": "dam"}, steps=1)
    save_model(root / "models/tgrn", TGRN((8, 8), 0), card)
    (root / "reports/curves").mkdir(parents=True)
    (root / "reports/curves/train_dam.csv").write_text("step,loss,lr\n1,3,0.1\n2,2,\n3,1,0.1\n")


@pytest.fixture(scope="module")
def params() -> Params:
    params = load_params(PARAMS)
    small = replace(params.evaluate, batch_size=5, bootstrap=100, pictures=2)
    one_thread = replace(params.train_tgrn, train=replace(params.train_tgrn.train, threads=1))
    run = replace(params.run, size=SIDE)
    return replace(params, run=run, evaluate=small, train_tgrn=one_thread)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    make_project(root, procedural=True)
    return root


@pytest.fixture(scope="module")
def summary(project: Path, params: Params) -> dict[str, Any]:
    evaluate(params, project, project)
    loaded: dict[str, Any] = json.loads((project / "reports/metrics.json").read_text())
    return loaded


def test_every_picture_of_every_face_is_measured(project: Path, summary: dict[str, Any]) -> None:
    rows = pd.read_csv(project / "reports/per_image.csv")
    assert len(rows) == PEOPLE * SHOTS * VARIANTS * len(KINDS)
    assert set(summary["pictures"]) == set(KINDS)
    assert all(f["psnr"]["n"] == PEOPLE * SHOTS * VARIANTS for f in summary["pictures"].values())
    about = summary["about"]
    assert (about["samples"], about["faces"], about["identities"]) == (12, 6, 3)
    for metric in ("psnr", "ssim", "nlpd", "identity", "texture", "landmark_hq"):
        expected = rows.query("kind == 'lq'")[metric].mean()
        assert summary["pictures"]["lq"][metric]["mean"] == pytest.approx(expected, rel=1e-4)


def test_figures_known_beforehand(summary: dict[str, Any]) -> None:
    pictures, differences = summary["pictures"], summary["differences"]
    # an untrained TGRN gives I_F back, and an untrained DAM moves nothing
    assert differences["out-id"]["psnr"] == {"mean": 0, "low": 0, "high": 0, "n": 12, "people": PEOPLE}
    assert pictures["out"]["landmark_id"]["mean"] == 0
    assert pictures["warp"]["folded"]["mean"] == 0
    assert differences["warp-gp"]["landmark_id"]["mean"] == 0
    # I_AP was stored as the truth itself
    assert pictures["ap"]["psnr"]["mean"] == 100
    assert pictures["ap"]["ssim"]["mean"] == 1
    assert pictures["ap"]["identity"]["mean"] == pytest.approx(1, abs=1e-5)
    assert pictures["ap"]["nlpd"]["mean"] == 0
    expected = [
        psnr(ndimage.gaussian_filter(texture(i), (1, 1, 0))[None], texture(i)[None])[0] for i in range(6)
    ]
    assert pictures["id"]["psnr"]["mean"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert pictures["lq"]["psnr"]["mean"] < pictures["id"]["psnr"]["mean"]
    assert pictures["lq"]["texture"]["mean"] < pictures["id"]["texture"]["mean"] < 1


def test_what_needs_missing_weights_says_so(summary: dict[str, Any]) -> None:
    assert set(summary["unavailable"]) == {"lpips", "lpips_alex", "lpips_vgg", "niqe"}
    assert "cfpp weights fetch niqe_pris_params.npz" in summary["unavailable"]["niqe"]
    assert "squeezenet" in summary["unavailable"]["lpips"]
    assert not any("lpips" in figures for figures in summary["pictures"].values())


def test_the_same_data_gives_the_same_bytes(project: Path, params: Params, summary: dict[str, Any]) -> None:
    def digest() -> list[str]:
        names = ("metrics.json", "per_image.csv", "report.html", "plots/kinds.csv", "plots/landmarks.csv")
        return [hashlib.sha256((project / "reports" / name).read_bytes()).hexdigest() for name in names]

    before = digest()
    evaluate(params, project, project)
    assert digest() == before


def test_the_report_shows_the_faces_and_the_curves(project: Path, summary: dict[str, Any]) -> None:
    page = (project / "reports/report.html").read_text()
    assert page.count('alt="I_warp of') == 2
    assert 'alt="Training curves" src="data:' in page
    assert summary["about"]["data_manifest_sha256"] in page


def test_photographs_without_networks_have_no_identity_and_no_landmarks(
    tmp_path: Path, params: Params
) -> None:
    make_project(tmp_path, procedural=False)
    summary, _ = evaluate(params, tmp_path, tmp_path)
    distances, faces = (
        {"lpips", "lpips_alex", "lpips_vgg"},
        {"identity", "angle", "landmark_hq", "landmark_id"},
    )
    assert set(summary["unavailable"]) == distances | faces | {"niqe"}
    assert "mobilefacenet" in summary["unavailable"]["identity"]
    assert not any("identity" in figures for figures in summary["pictures"].values())
    assert not (tmp_path / "reports/plots/landmarks.csv").exists()
    assert "procedural faces only" in (tmp_path / "reports/report.html").read_text()

"""The end-point error of a flow, against closed forms, and what is said of flows that do not fit."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cfpp.config import load_params
from cfpp.data.pictures import Picture, encode_png, to_tensor
from cfpp.models.dam import load_dam
from cfpp.synthesis.controlled import encode_flow
from pipelines import measure_flow
from tests.tiny_models import SIZE, write_models
from tests.tiny_shards import write_stage

REPOSITORY = Path(__file__).resolve().parents[1]
OFFSET = (3.0, -4.0)  # rows, columns: 5 pixels
KEYS = ("a", "b", "c")


def smooth_picture(seed: int) -> Picture:
    """Waves that go round at the edges, so that rolling it is a true displacement."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE)) * (2 * np.pi / SIZE)
    waves = [np.sin(a * rows + b * columns + p) for a, b, p in rng.integers(1, 6, (6, 3))]
    grey = 128 + 100 * np.mean(waves, axis=0)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Faces whose I_G is I_F rolled, the flows of that, and a tiny DAM."""
    write_models(tmp_path / "models")
    (tmp_path / "flow").mkdir()
    shards, restored = [], []
    for number, key in enumerate(KEYS):
        i_f = smooth_picture(number)
        i_g = np.roll(i_f, (int(OFFSET[0]), int(OFFSET[1])), axis=(0, 1))  # I_G(x + offset) = I_F(x)
        meta = json.dumps({"identity": f"person {key}", "source": key}).encode()
        shards.append((key, {"hq.png": encode_png(i_f), "meta.json": meta}))
        members = {"0.id.png": i_f, "0.gp.png": i_g}
        restored.append((key, {"0.draw.json": b"{}", **{name: encode_png(p) for name, p in members.items()}}))
        flow = np.broadcast_to(np.array(OFFSET, np.float32)[:, None, None], (2, SIZE, SIZE))
        (tmp_path / "flow" / f"{key}.0.npz").write_bytes(encode_flow(flow, i_g))
    write_stage(tmp_path / "data/shards", {"test": shards})
    write_stage(tmp_path / "data/restored", {"test": restored})
    params = load_params(REPOSITORY / "params.yaml")
    params = replace(params, run=replace(params.run, size=SIZE))
    monkeypatch.setattr(measure_flow, "load_params", lambda: params)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["measure_flow", *arguments])
    measure_flow.main()
    return json.loads(Path("reports/flow.json").read_text())


def test_a_constant_offset_is_its_length_off(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = run(monkeypatch, "flow")
    still = figures["error_px"]["none"]
    for region in ("picture", "face", "face_own"):
        for statistic in ("mean", "median", "p95"):
            assert still[region][statistic]["mean"] == pytest.approx(5.0)
    assert (still["picture"]["mean"]["n"], still["picture"]["mean"]["people"]) == (3, 3)
    assert figures["folded_share"]["none"]["mean"] == 0
    assert figures["study"].startswith("controlled")


def test_dis_is_read_in_rows_and_columns(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the roll of smooth waves to a fraction of a pixel; with its axes exchanged it would not."""
    assert run(monkeypatch, "flow")["error_px"]["dis"]["face"]["median"]["mean"] < 0.5


def test_dam_is_measured_as_it_is(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = run(monkeypatch, "flow")
    dam, errors = load_dam("models/dam"), []
    for number in range(len(KEYS)):
        i_f = smooth_picture(number)
        i_g = np.roll(i_f, (3, -4), axis=(0, 1))
        with torch.no_grad():
            flow = dam(to_tensor(i_g[None]), to_tensor(i_f[None]))[0].double().numpy()
        errors.append(((flow[0] - 3) ** 2 + (flow[1] + 4) ** 2) ** 0.5)
    found = figures["error_px"]["dam"]["picture"]
    assert found["mean"]["mean"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found["p95"]["mean"] == pytest.approx(np.mean([np.percentile(e, 95) for e in errors]), rel=1e-4)
    reduction = figures["reduction_by_dam"]["none"]["picture"]["mean"]
    assert reduction == pytest.approx(1 - np.mean(errors) / 5, abs=1e-4)


def test_regions_are_where_they_are_said_to_be() -> None:
    regions = measure_flow.regions_of(512)
    # pi a b of the ellipse, and no eye, nose or mouth in the last
    assert regions["face"].sum() == pytest.approx(np.pi * 190 * 150, rel=1e-3)
    for row, column in ((240, 193), (240, 319), (314, 257), (371, 257)):
        assert regions["face"][row, column]
        assert not regions["face_own"][row, column]
    assert regions["face_own"][450, 256]
    assert regions["face_own"].sum() > 0.2 * regions["face"].sum()
    small = measure_flow.regions_of(128)
    for name, region in regions.items():
        assert small[name].mean() == pytest.approx(region.mean(), abs=0.01)


def test_each_region_is_given_its_own_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 pixels outside the face, 4 on it, 2 on what is the face's own; I_G plays no part without a flow."""
    regions = measure_flow.regions_of(SIZE)
    face, own = regions["face"], regions["face_own"]
    assert 0 < own.sum() < face.sum() < SIZE**2
    error = np.where(own, 2, np.where(face, 4, 8)).astype(np.float32)
    for number, key in enumerate(KEYS):
        i_g = np.roll(smooth_picture(number), (int(OFFSET[0]), int(OFFSET[1])), axis=(0, 1))
        flow = np.stack([np.zeros_like(error), error])
        (project / f"flow/{key}.0.npz").write_bytes(encode_flow(flow, i_g))
    found = run(monkeypatch, "flow")["error_px"]["none"]
    inside, whole = own.sum() / face.sum(), face.sum() / SIZE**2
    on_face = 2 * inside + 4 * (1 - inside)
    for region, mean in (
        ("face_own", 2),
        ("face", on_face),
        ("picture", on_face * whole + 8 * (1 - whole)),
    ):
        assert found[region]["mean"]["mean"] == pytest.approx(mean, rel=1e-5)
    assert [found[region]["p95"]["mean"] for region in ("face_own", "face", "picture")] == [2, 4, 8]


def test_what_does_not_fit_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        (("nowhere",), r"nowhere/a\.0\.npz: no such flow"),
        (("flow", "--split", "val"), "lists no val shards"),
        (("flow", "--dam", "nowhere"), "nowhere"),
    ):
        with pytest.raises(SystemExit, match=f"measure_flow: .*{message}"):
            run(monkeypatch, *arguments)
    (project / "flow/b.0.npz").write_bytes((project / "flow/a.0.npz").read_bytes())
    with pytest.raises(SystemExit, match=r"flow/b\.0\.npz: the flow of another I_G"):
        run(monkeypatch, "flow")
    assert not Path("reports/flow.json").exists()

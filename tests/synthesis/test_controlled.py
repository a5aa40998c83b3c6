"""The controlled study: its flow is the true one, and its faces are what they are said to be."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from cfpp.cli import main
from cfpp.config import Params, load_params
from cfpp.data.components import component_mask
from cfpp.data.manifest import Manifest
from cfpp.data.pictures import Picture, decode, encode_png
from cfpp.data.procedural import render
from cfpp.data.samples import SampleStore
from cfpp.data.shards import DataError
from cfpp.models.dam import folded_share
from cfpp.synthesis import controlled
from cfpp.synthesis.controlled import Draw, donor_of, encode_flow, make_face, read_flow, write_study
from cfpp.synthesis.deformation import HALF_WAVES, PRECISION, STEEPEST, Deformation, draw_deformation
from cfpp.synthesis.degraded import degrader
from cfpp.synthesis.folder_prior import folder_spec, plan_folder
from cfpp.synthesis.shard_work import make_shard
from tests.tiny_shards import write_stage

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 64
FACES = {"train": [(0, 0), (0, 1), (1, 0), (2, 0)], "test": [(3, 0), (4, 0)]}  # (person, shot)


def key(person: int, shot: int) -> str:
    return f"p{person}s{shot}"


@pytest.fixture
def params() -> Params:
    params = load_params(REPOSITORY / "params.yaml")
    return replace(
        params, run=replace(params.run, size=SIZE), synthesize=replace(params.synthesize, variants=2)
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clean procedural faces of five people."""
    faces = {
        split: [
            (
                key(person, shot),
                {
                    "hq.png": encode_png(render(0, person, shot, SIZE).picture),
                    "meta.json": json.dumps({"identity": f"person{person}", "source": "x"}).encode(),
                },
            )
            for person, shot in own
        ]
        for split, own in FACES.items()
    }
    write_stage(tmp_path / "data/shards", faces)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def naive_displacement(deformation: Deformation, row: float, column: float) -> tuple[float, float]:
    """The sum as the docstring writes it, term by term."""
    r, c = row / (deformation.side - 1), column / (deformation.side - 1)
    total = [0.0, 0.0]
    for j in range(HALF_WAVES):
        for k in range(HALF_WAVES + 1):
            total[0] += deformation.across[j, k] * np.sin(np.pi * (j + 1) * r) * np.cos(np.pi * k * c)
            total[1] += deformation.along[j, k] * np.sin(np.pi * (j + 1) * c) * np.cos(np.pi * k * r)
    return total[0], total[1]


@pytest.fixture(scope="module")
def deformation() -> Deformation:
    return draw_deformation(SIZE, 0.04 * SIZE, np.random.default_rng(3))


def test_the_displacement_and_its_gradient_are_those_of_the_sum(deformation: Deformation) -> None:
    points, step = np.random.default_rng(0).uniform(1, SIZE - 2, (2, 20)), 1e-5
    plain = np.array([naive_displacement(deformation, *point) for point in points.T]).T
    np.testing.assert_allclose(deformation.displacement(points), plain, atol=1e-9)
    gradient = deformation.gradient()
    for row, column in ((0, 0), (5, 40), (SIZE - 1, 20)):
        for direction in range(2):
            moved = np.array([row, column], float)
            moved[direction] += step
            slope = np.subtract(
                naive_displacement(deformation, *moved), naive_displacement(deformation, row, column)
            )
            np.testing.assert_allclose(gradient[:, direction, row, column], slope / step, atol=1e-4)


def test_the_inverse_takes_every_pixel_back_and_nothing_folds(deformation: Deformation) -> None:
    phi = deformation.inverse()
    grid = np.indices((SIZE, SIZE), dtype=float)
    there = grid + phi
    back = there.reshape(2, -1) + deformation.displacement(there.reshape(2, -1))
    assert np.hypot(*(back - grid.reshape(2, -1))).max() < 2 * PRECISION
    assert np.hypot(*phi).max() == pytest.approx(0.04 * SIZE, rel=0.02)
    assert deformation.determinant().min() > 0
    assert folded_share(torch.from_numpy(phi)[None]).item() == 0
    # Every pixel stays in the picture, those of an edge on their edge.
    assert there.min() > -PRECISION
    assert there.max() < SIZE - 1 + PRECISION


def test_a_displacement_too_steep_to_be_inverted_is_flattened() -> None:
    drawn = draw_deformation(SIZE, 0.5 * SIZE, np.random.default_rng(0))
    steepest = np.sqrt((drawn.gradient() ** 2).sum((0, 1))).max()
    assert steepest == pytest.approx(STEEPEST)
    assert drawn.determinant().min() > 0


def test_the_same_draw_at_another_size_is_the_same_deformation() -> None:
    small, large = (draw_deformation(side, side, np.random.default_rng(0)) for side in (64, 256))
    where = np.array([[0.3, 0.7], [0.2, 0.9]])
    shares = [d.displacement(where * (d.side - 1)) / d.side for d in (small, large)]
    np.testing.assert_allclose(*shares, atol=2e-3)


def faces_of(seed: int, size: int) -> controlled.ControlledFace:
    hq, donor = (render(0, person, 0, size).picture for person in (0, 1))
    degraded = degrader(load_params(REPOSITORY / "params.yaml")).degrade("face", hq, "test")[0]
    return make_face(seed, hq, donor, degraded)


@pytest.mark.parametrize("seed", range(3))
def test_the_flow_takes_i_g_back_onto_the_undeformed_picture(seed: int) -> None:
    """By a bilinear sampler that is not the project's."""
    size = 256
    face = faces_of(seed, size)
    where = np.indices((size, size)) + face.flow
    inner = slice(4, -4)

    def sampled(places: np.ndarray) -> np.ndarray:
        return np.stack(
            [map_coordinates(face.i_g[..., c].astype(float), places, order=1) for c in range(3)], -1
        )

    def error(picture: np.ndarray) -> float:
        return float(np.mean((picture[inner, inner] - face.undeformed[inner, inner].astype(float)) ** 2))

    back = error(sampled(where))
    assert 10 * np.log10(255**2 / back) > 38
    # It is the flow that does it: unmoved, or moved the other way, the picture does not fit.
    assert back < 0.1 * min(error(face.i_g), error(sampled(np.indices((size, size)) - face.flow)))


def test_i_g_is_the_face_outside_the_components_and_the_donor_inside() -> None:
    size = 128
    hq, donor = (render(0, person, 0, size).picture for person in (0, 1))
    face = faces_of(0, size)
    mask = component_mask(size, face.drawn.feather)
    assert (face.undeformed[mask == 0] == hq[mask == 0]).all()
    other = donor[:, ::-1] if face.drawn.mirrored else donor
    inside = mask == 1

    def likeness(picture: Picture) -> float:
        detail = [
            cv2.Laplacian(p.astype(np.float32).mean(2), cv2.CV_32F)[inside]
            for p in (face.undeformed, picture)
        ]
        return float(np.corrcoef(*detail)[0, 1])

    assert likeness(other) > 0.6 > likeness(hq) + 0.2
    # Its colours are the face's: nearer to it than the donor's are.
    far = np.abs(face.undeformed[inside].mean(0) - hq[inside].mean(0)).mean()
    assert far < 0.5 * np.abs(other[inside].mean(0) - hq[inside].mean(0)).mean() + 2


def test_i_f_is_smooth_and_in_place() -> None:
    hq = render(0, 0, 0, 128).picture
    face = faces_of(0, 128)

    def fine(picture: Picture) -> float:
        return float(np.abs(cv2.Laplacian(picture.astype(np.float32), cv2.CV_32F)).mean())

    assert fine(face.i_f) < 0.7 * fine(hq)
    shift, _ = cv2.phaseCorrelate(*(p.astype(np.float32).mean(2) for p in (hq, face.i_f)))
    assert np.hypot(*shift) < 0.1


def test_i_f_of_a_flat_face_is_the_stated_mean() -> None:
    flat, lq = np.full((SIZE, SIZE, 3), 100, np.uint8), np.full((SIZE, SIZE, 3), 200, np.uint8)
    drawn = Draw(0.015, 40, 0.005, kept=0.1, feather=0.05, strength=1, mirrored=False, peak=0.02)
    assert (controlled.over_smoothed(flat, lq, drawn) == 110).all()


def test_a_donor_is_another_person_and_does_not_depend_on_order() -> None:
    people = {f"k{n}": f"person{n // 4}" for n in range(12)}
    donors = {k: donor_of(0, k, people) for k in people}
    assert all(people[k] != people[donor] for k, donor in donors.items())
    assert len(set(donors.values())) > 4
    assert donors == {k: donor_of(0, k, dict(reversed(people.items()))) for k in people}
    assert donors != {k: donor_of(1, k, people) for k in people}


def test_one_more_face_becomes_the_donor_of_about_one_in_n_and_changes_no_other() -> None:
    faces = 200
    people = {f"k{n:03}": f"person{n}" for n in range(faces)}
    before, changed, times = {k: donor_of(0, k, people) for k in people}, 0, 10
    for new in range(times):  # before the others in order, and behind them
        more = {f"{'az'[new % 2]}{new}": "somebody else", **people}
        donors = {k: donor_of(0, k, more) for k in people}
        assert {donors[k] for k in people if donors[k] != before[k]} <= {f"{'az'[new % 2]}{new}"}
        changed += sum(donors[k] != before[k] for k in people)
    # expected: 200 of 201 a time, deviation 1 each; of 10 faces 10, deviation about 3
    assert 1 <= changed <= 22


def test_draws_differ_from_face_to_face() -> None:
    drawn = [controlled.draw(0, k, variant) for k in ("a", "b") for variant in range(2)]
    for name in ("reach", "tones", "blur", "kept", "feather", "strength", "peak"):
        assert len({getattr(one, name) for one in drawn}) == 4


def test_the_command_writes_what_the_folder_prior_takes_and_the_same_bytes_twice(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cfpp.commands.controlled.load_params", lambda: params)
    for out in ("one", "two"):
        assert main(["controlled", out]) == 0
    assert "8 train, 2 test: controlled" in capsys.readouterr().out
    files = sorted(path.relative_to("one") for path in Path("one").rglob("*") if path.is_file())
    assert len(files) == 10 * 4 + 2
    for path in files:
        assert (Path("one") / path).read_bytes() == (Path("two") / path).read_bytes()
    assert json.loads(Path("one/study.json").read_text())["study"] == "controlled"

    plan = plan_folder(
        project / "data/shards", {c: project / "one" / c for c in ("lq", "id", "gp")}, degrader(params)
    )
    assert {name: count for name, count in plan.facts.items() if "missing" in name or "surplus" in name} == {
        f"{c}_{what}": 0 for c in ("lq", "id", "gp") for what in ("missing", "surplus")
    }
    assert plan.controlled
    manifest = Manifest()
    for task in plan.tasks:
        outcome = make_shard(task, folder_spec(params).build(), project / "data/restored", "hash")
        assert outcome.refused == ()
        manifest.put(outcome.row, outcome.refused)
    manifest.save(project / "data/restored")
    for split in FACES:
        store = SampleStore(project, split, ("id",))
        draws = [store[place].meta["draw"] for place in range(len(store))]
        assert all(draw["controlled"] is True and "jpeg" in draw for draw in draws)

    rows = Path("one/draws.csv").read_text().splitlines()
    assert len(rows) == 11
    for row in rows[1:]:
        own, _, split, donor, *_ = row.split(",")
        assert own[:2] != donor[:2], row
        assert donor in {key(*one) for one in FACES[split]}


def test_a_face_alone_gives_what_it_gives_among_others(project: Path, params: Params) -> None:
    write_study(params, Path("out"))
    hq = SampleStore(project, "test", ("hq",)).pictures(0)["hq"]
    other = SampleStore(project, "test", ("hq",)).pictures(1)["hq"]
    degraded = degrader(params).degrade("p3s0", hq, "test")[0]
    face = make_face(params.run.seed, hq, other, degraded)
    assert (decode(Path("out/gp/p3s0.0.png").read_bytes()) == face.i_g).all()
    assert (read_flow(Path("out/flow/p3s0.0.npz"), face.i_g) == face.flow).all()


class KilledError(Exception):
    """Stands for a kill."""


def test_a_study_that_is_not_finished_has_no_label_and_is_refused(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = project / "out"
    folders = {column: out / column for column in ("lq", "id", "gp")}
    shards, label = project / "data/shards", out / "study.json"
    write_study(params, out)
    draws = (out / "draws.csv").read_text()
    calls, made = [], make_face

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KilledError
        return made(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(controlled, "make_face", killed)
        with pytest.raises(KilledError):
            write_study(params, out)
    assert not label.exists()
    assert (out / "draws.csv").read_text() == draws  # whole, be it an older one
    with pytest.raises(DataError, match=r"study\.json: not there, .*write it again with cfpp controlled"):
        plan_folder(shards, folders, degrader(params))

    # the label comes last
    (out / "draws.csv").unlink()
    (out / "draws.csv").mkdir()
    with pytest.raises(OSError, match="draws"):
        write_study(params, out)
    assert not label.exists()
    (out / "draws.csv").rmdir()

    write_study(params, out)
    assert plan_folder(shards, folders, degrader(params)).controlled
    assert not list(out.glob("*.tmp"))
    label.write_text("{")
    with pytest.raises(DataError, match=r"study\.json: damaged"):
        plan_folder(shards, folders, degrader(params))


def test_without_shards_or_a_second_person_it_says_so(tmp_path: Path, params: Params) -> None:
    params = replace(params, storage=replace(params.storage, root=str(tmp_path)))
    with pytest.raises(DataError, match=r"data/shards: no manifest with shards; run the stage"):
        write_study(params, tmp_path / "out")
    with pytest.raises(DataError, match="a: no other person in its split"):
        donor_of(0, "a", {"a": "x", "b": "x"})


def test_a_flow_that_is_missing_damaged_or_of_another_picture_is_named(tmp_path: Path) -> None:
    i_g, path = np.zeros((SIZE, SIZE, 3), np.uint8), tmp_path / "a.0.npz"
    with pytest.raises(DataError, match=r"a\.0\.npz: no such flow; write the study with cfpp controlled"):
        read_flow(path, i_g)
    whole = encode_flow(np.zeros((2, SIZE, SIZE), np.float32), i_g)
    for data in (whole[: len(whole) // 2], b"", encode_png(i_g)):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.0\.npz: damaged"):
            read_flow(path, i_g)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.0\.npz: the flow of another I_G"):
        read_flow(path, i_g + 1)
    assert not read_flow(path, i_g).any()

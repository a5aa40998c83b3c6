"""A contest against plain numpy, and what becomes of pictures that cannot be measured."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cfpp.config import WeightsParams
from cfpp.data.folder import FolderError
from cfpp.data.pictures import encode_png
from cfpp.errors import MendableError
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.contest import Contest, people_of
from cfpp.evaluation.folders import FoldersError, PictureFolder, Source, match
from cfpp.evaluation.measure import Instruments, build_instruments
from cfpp.evaluation.outcome import Outcome, hold
from cfpp.evaluation.standings import choose_faces, sheet, table
from cfpp.evaluation.unavailable import Unavailable

SIDE = 48
STEMS = ("ann_0", "ann_1", "bob_0", "bob_1", "cy_0", "dan_0")
BOOTSTRAP = Bootstrap(300, 0.95, 1)
NO_INCEPTION = Unavailable("needs inception (weights.root)")


class Flatness:
    """Stands in for NIQE: the mean of the picture; not defined on black ones, not finite on white ones."""

    def measure(self, pictures: np.ndarray) -> np.ndarray:
        means = pictures.mean(axis=(1, 2, 3))
        if (means == 0).any():
            raise MendableError("too little texture")
        return np.where(means == 255, np.nan, means)


class Colours:
    """Stands in for Inception: the mean of each channel, and of its square."""

    def features(self, pictures: np.ndarray) -> np.ndarray:
        values = pictures.astype(np.float64) / 255
        return np.concatenate([values.mean(axis=(1, 2)), (values**2).mean(axis=(1, 2))], axis=1)


@pytest.fixture(scope="module")
def instruments() -> Instruments:
    built = build_instruments("folder", WeightsParams(root="", identity="", landmarks=""))
    return replace(built, niqe=Flatness())  # type: ignore[arg-type]


def truth_of(stem: str) -> np.ndarray:
    rng = np.random.default_rng(list(stem.encode()))
    smooth = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE, 3)), (1.5, 1.5, 0))
    return np.clip(128 + 200 * smooth, 0, 255).astype(np.uint8)


def noisy(stem: str, deviation: float) -> np.ndarray:
    rng = np.random.default_rng([*stem.encode(), round(deviation)])
    noise = deviation * (1 + 0.1 * STEMS.index(stem)) * rng.standard_normal((SIDE, SIDE, 3))
    return np.clip(np.rint(truth_of(stem) + noise), 0, 255).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("truth", "good", "bad"):
        (tmp_path / name).mkdir()
    for stem in STEMS:
        for name, picture in (
            ("truth", truth_of(stem)),
            ("good", noisy(stem, 4)),
            ("bad", noisy(stem, 12)),
        ):
            (tmp_path / name / f"{stem}.png").write_bytes(encode_png(picture))
    return tmp_path


def contest(
    root: Path,
    names: tuple[str, ...] = ("bad", "good"),
    truth: bool = True,
    people: str = "",
    reference: str | None = None,
    size: int | None = None,
) -> Contest:
    entrants: list[Source] = [PictureFolder.open(name, root / name) for name in names]
    clean = PictureFolder.open("truth", root / "truth") if truth else None
    faces = match([clean, *entrants] if clean else entrants, common=False)
    return Contest(
        entrants=tuple(entrants),
        truth=clean,
        reference=PictureFolder.open("reference", root / reference) if reference else None,
        faces=faces,
        size=size or SIDE,
        resize=size is not None,
        people=people_of(faces.stems, people),
    )


def measured(contest: Contest, instruments: Instruments, inception: Any = NO_INCEPTION) -> Outcome:
    return hold(contest, instruments, inception, BOOTSTRAP, batch_size=4)


def plain_psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(first.astype(float) - second).mean()))


def test_means_and_differences_are_those_of_plain_numpy(root: Path, instruments: Instruments) -> None:
    outcome = measured(contest(root, people=r"^([a-z]+)_"), instruments)
    values = {
        name: np.array([plain_psnr(noisy(stem, deviation), truth_of(stem)) for stem in STEMS])
        for name, deviation in (("good", 4), ("bad", 12))
    }
    for name, expected in values.items():
        rows = outcome.rows[outcome.rows["kind"] == name].set_index("key")["psnr"]
        np.testing.assert_allclose([rows[stem] for stem in STEMS], expected, rtol=1e-9)
        figure = outcome.summary["restorers"][name]["psnr"]
        assert figure["mean"] == pytest.approx(expected.mean(), rel=1e-5)
        assert (figure["n"], figure["people"]) == (6, 4)
    gained = outcome.summary["differences"]["good-bad"]["psnr"]
    assert gained["mean"] == pytest.approx((values["good"] - values["bad"]).mean(), rel=1e-5)
    # people are resampled: no interval can be wider than the spread of the people's own means
    people = [(values["good"] - values["bad"])[list(p)].mean() for p in ((0, 1), (2, 3), (4,), (5,))]
    assert min(people) <= gained["low"] <= gained["mean"] <= gained["high"] <= max(people)
    assert outcome.summary["restorers"]["good"]["niqe"]["mean"] == pytest.approx(
        np.mean([noisy(stem, 4).mean() for stem in STEMS]), rel=1e-5
    )
    assert outcome.summary["left_out"] == {"count": 0, "pictures": []}
    assert outcome.faces == STEMS


def test_what_was_measured_is_named_by_its_content(root: Path, instruments: Instruments) -> None:
    summary = measured(contest(root), instruments).summary
    lines = [
        f"{hashlib.sha256((root / f'good/{stem}.png').read_bytes()).hexdigest()}  {stem}\n" for stem in STEMS
    ]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert summary["measured"]["good"] == {"origin": str(root / "good"), "n": 6, "sha256": digest}
    assert {"lpips", "identity", "fid", "kid"} <= set(summary["unavailable"])
    assert "landmark_id" not in summary["unavailable"]


def test_a_picture_at_fault_costs_every_restorer_that_face_and_is_named(
    root: Path, instruments: Instruments
) -> None:
    (root / "good/ann_0.png").write_bytes((root / "good/ann_0.png").read_bytes()[:300])
    (root / "bad/bob_0.png").write_bytes(encode_png(noisy("bob_0", 12)[:32, :32]))
    (root / "good/cy_0.png").write_bytes(encode_png(np.zeros((SIDE, SIDE, 3), np.uint8)))
    (root / "bad/dan_0.png").write_bytes(encode_png(np.full((SIDE, SIDE, 3), 255, np.uint8)))
    outcome = measured(contest(root), instruments)
    assert outcome.faces == ("ann_1", "bob_1")
    found = {(fault.stem, fault.source): fault.reason for fault in outcome.left_out}
    assert found.keys() == {("ann_0", "good"), ("bob_0", "bad"), ("cy_0", "good"), ("dan_0", "bad")}
    assert "truncated" in found["ann_0", "good"]
    assert f"32 x 32 pixels, expected {SIDE} x {SIDE}" in found["bob_0", "bad"]
    assert found["cy_0", "good"] == "too little texture"
    assert found["dan_0", "bad"] == "niqe is not finite"
    assert outcome.summary["left_out"]["count"] == 4
    assert set(outcome.rows["key"]) == {"ann_1", "bob_1"}
    expected = np.mean([plain_psnr(noisy(s, 12), truth_of(s)) for s in ("ann_1", "bob_1")])
    assert outcome.summary["restorers"]["bad"]["psnr"]["mean"] == pytest.approx(expected, rel=1e-5)
    text = table(outcome.summary)
    assert "Left out: ann_0 of good" in text
    assert "2 faces of 2 people" in text


@pytest.mark.parametrize("flat", [7, 255])
def test_a_truth_without_texture_is_booked_on_the_truth_and_once(
    root: Path, instruments: Instruments, flat: int
) -> None:
    (root / "truth/bob_1.png").write_bytes(encode_png(np.full((SIDE, SIDE, 3), flat, np.uint8)))
    outcome = measured(contest(root), instruments)
    assert [(fault.stem, fault.source) for fault in outcome.left_out] == [("bob_1", "truth")]
    assert "flat: it has no texture" in outcome.left_out[0].reason
    assert outcome.faces == tuple(stem for stem in STEMS if stem != "bob_1")
    # a truth that does bear comparison is not blamed for a restorer's picture
    (root / "truth/bob_1.png").write_bytes(encode_png(truth_of("bob_1")))
    (root / "good/bob_1.png").write_bytes(encode_png(np.zeros((SIDE, SIDE, 3), np.uint8)))
    outcome = measured(contest(root), instruments)
    assert [(fault.stem, fault.source) for fault in outcome.left_out] == [("bob_1", "good")]


def test_pictures_too_small_for_a_metric_are_left_out_by_name(root: Path, instruments: Instruments) -> None:
    for path in root.glob("*/*.png"):
        path.write_bytes(encode_png(truth_of(path.stem)[:10, :10]))
    with pytest.raises(FoldersError, match=r"none of 6 .*; ann_0 of truth: SSIM needs sides of 11"):
        measured(contest(root, size=10), instruments)


def test_with_nothing_left_it_says_why(root: Path, instruments: Instruments) -> None:
    for stem in STEMS:
        (root / f"good/{stem}.png").write_bytes(b"")
    with pytest.raises(FoldersError, match="none of 6 faces can be measured; ann_0 of good: empty file"):
        measured(contest(root), instruments)


def test_resizing_is_done_when_asked_and_is_named(root: Path, instruments: Instruments) -> None:
    for stem in STEMS:
        big = np.repeat(np.repeat(noisy(stem, 4), 2, axis=0), 2, axis=1)
        (root / f"good/{stem}.png").write_bytes(encode_png(big))
    before = {
        stem: plain_psnr(noisy(stem, 4), truth_of(stem)) for stem in STEMS
    }  # the mean of four equal pixels is that pixel
    outcome = measured(contest(root, size=SIDE), instruments)
    rows = outcome.rows[outcome.rows["kind"] == "good"].set_index("key")["psnr"]
    np.testing.assert_allclose([rows[s] for s in STEMS], [before[s] for s in STEMS], rtol=1e-9)
    assert set(outcome.summary["altered"]) == {"good"}
    assert set(outcome.summary["altered"]["good"].values()) == {f"resized from {2 * SIDE} pixels"}


@pytest.mark.parametrize("kept", [1, 2])
def test_one_picture_or_one_person_bears_no_interval(root: Path, instruments: Instruments, kept: int) -> None:
    for path in root.glob("*/*.png"):
        if path.stem not in STEMS[:kept]:
            path.unlink()
    summary = measured(contest(root, people=r"^([a-z]+)_"), instruments).summary
    figure = summary["differences"]["good-bad"]["psnr"]
    assert (figure["low"], figure["high"], figure["n"]) == (None, None, kept)
    text = table(summary)
    assert text.startswith(f"{kept} face{'s' if kept > 1 else ''} of 1 person, ")
    assert "[-]" in text
    assert ("One picture bears no interval" in text) == (kept == 1)
    assert ("Pictures of one person bear no interval" in text) == (kept == 2)


def test_without_a_truth_only_what_needs_none_is_measured(root: Path, instruments: Instruments) -> None:
    outcome = measured(contest(root, truth=False), instruments)
    assert set(outcome.summary["restorers"]["good"]) == {"niqe"}
    assert outcome.summary["unavailable"]["psnr"] == "needs --truth"
    blind = replace(instruments, niqe=Unavailable("needs niqe_pris_params.npz"))
    with pytest.raises(FoldersError, match="nothing can be measured without --truth: niqe needs"):
        measured(contest(root, truth=False), blind)


def test_fid_and_kid_compare_with_the_reference(root: Path, instruments: Instruments) -> None:
    outcome = measured(contest(root, names=("truth", "good"), reference="truth"), instruments, Colours())
    distances = outcome.summary["distributions"]
    assert distances["truth"]["fid"] == pytest.approx(0, abs=1e-9)
    assert (distances["good"]["n"], distances["good"]["reference_n"]) == (6, 6)
    sets = [
        Colours().features(np.stack([make(stem) for stem in STEMS]))
        for make in (truth_of, lambda stem: noisy(stem, 4))
    ]
    gap = sets[0].mean(axis=0) - sets[1].mean(axis=0)
    first, second = (np.cov(features, rowvar=False) for features in sets)
    root_of_product = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    expected = gap @ gap + np.trace(first) + np.trace(second) - 2 * root_of_product
    assert distances["good"]["fid"] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert "FID and KID: 6 pictures against 6." in table(outcome.summary)
    assert "fid" not in outcome.summary["unavailable"]


def test_sets_too_small_for_fid_do_not_cost_the_rest(root: Path, instruments: Instruments) -> None:
    (root / "one").mkdir()
    (root / "one/a.png").write_bytes(encode_png(truth_of("ann_0")))
    (root / "one/b.gif").write_bytes(b"GIF89a")
    few = measured(contest(root, reference="one"), instruments, Colours()).summary
    for path in root.glob("*/*.png"):
        if path.parent.name in ("truth", "good", "bad") and path.stem != "ann_0":
            path.unlink()
    single = measured(contest(root, reference="truth"), instruments, Colours()).summary
    (root / "one/a.png").write_bytes(b"no")
    none = measured(contest(root, reference="one"), instruments, Colours()).summary
    for summary, reason in (
        (few, "the reference set has 1 pictures; FID and KID need two or more"),
        (single, "the set has 1 pictures; FID and KID need two or more"),
        (none, "no picture of the reference can be used"),
    ):
        assert summary["distributions"] == {}
        assert summary["unavailable"]["fid"].startswith(reason)
        assert summary["unavailable"]["kid"] == summary["unavailable"]["fid"]
        assert "fid" not in summary["instruments"]
        assert summary["restorers"]["good"]["psnr"]["mean"] > 20
        assert f"Not computed: fid, kid: {reason}" in table(summary)
    assert "Ignored in reference: 1, such as b.gif." in table(few)
    blind = replace(instruments, niqe=Unavailable("needs niqe_pris_params.npz"))
    with pytest.raises(
        FoldersError, match=r"nothing can be measured without --truth; FID and KID: the set has 1"
    ):
        measured(contest(root, truth=False, reference="truth"), blind, Colours())


def test_a_broken_reference_picture_is_named_and_costs_no_face(root: Path, instruments: Instruments) -> None:
    (root / "other").mkdir()
    for stem in STEMS:
        (root / f"other/{stem}x.png").write_bytes(encode_png(truth_of(stem)))
    (root / "other/zoe.png").write_bytes(b"no")
    outcome = measured(contest(root, reference="other"), instruments, Colours())
    assert [(fault.stem, fault.source) for fault in outcome.left_out] == [("zoe", "reference")]
    assert outcome.faces == STEMS
    assert outcome.summary["distributions"]["good"]["reference_n"] == 6


def test_people_are_read_off_the_names() -> None:
    assert people_of(["a_1", "a_2", "b"], r"^(\w)_") == {"a_1": "a", "a_2": "a", "b": "b"}
    assert people_of(["a_1", "a_2"], "") == {"a_1": "a_1", "a_2": "a_2"}
    for pattern, reason in (("(", "not a regular"), ("a", "no group"), ("(z)", "matches no file")):
        with pytest.raises(FolderError, match=reason):
            people_of(["a_1"], pattern)


def test_the_best_median_and_worst_are_shown(root: Path, instruments: Instruments) -> None:
    outcome = measured(contest(root), instruments)
    by_name = {name: own.set_index("key")["nlpd"] for name, own in outcome.rows.groupby("kind")}
    ranked = (by_name["good"] - by_name["bad"]).sort_values()
    shown = choose_faces(outcome.rows, ["bad", "good"], outcome.faces)
    assert [face.stem for face in shown] == [ranked.index[0], ranked.index[2], ranked.index[-1]]
    assert shown[0].label == f"good - bad: best, NLPD {ranked.iloc[0]:+.4f}"
    alone = choose_faces(outcome.rows, ["bad"], outcome.faces)
    assert alone[0].stem == by_name["bad"].idxmin()
    only = outcome.rows[outcome.rows["key"] == "cy_0"]
    assert [face.label.split(":")[1] for face in choose_faces(only, ["bad"], ["cy_0"])] == [
        " best, median, worst, NLPD " + f"{by_name['bad']['cy_0']:.4f}"
    ]
    grey = {"truth": 40, "bad": 80, "good": 160}
    drawn = sheet(list(grey), shown, lambda name, stem: np.full((8, 8, 3), grey[name], np.uint8))
    for level in grey.values():
        assert (drawn == level).all(axis=2).sum() >= 3 * 200 * 200

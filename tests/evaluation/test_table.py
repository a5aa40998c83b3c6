"""From rows to the figures of metrics.json."""

import numpy as np
import pandas as pd
import pytest

from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.measure import KINDS
from cfpp.evaluation.metrics import METRICS
from cfpp.evaluation.table import best_kind, figure_rows, flat, kinds_frame, summarise, verdict

BY_NAME = {metric.name: metric for metric in METRICS}
KEYS, PEOPLE = ["a0", "a1", "b0", "c0"], ["a", "a", "b", "c"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    offsets = dict(zip(KINDS, range(len(KINDS)), strict=True))
    base = np.array([20.0, 22.0, 24.0, 26.0])
    figures = {
        kind: {"psnr": base + offset, "texture": np.array([0.5, 0.5, 1.5, 1.5]) + 0.01 * offset}
        for kind, offset in offsets.items()
    }
    figures["warp"]["folded"] = np.zeros(4)
    for kind in ("gp", "warp"):
        figures[kind]["landmark_id"] = np.array([4.0, 4, 4, 4]) - (kind == "warp")
    return figure_rows(KEYS, [0] * 4, PEOPLE, figures)


def test_rows_hold_every_picture_once(rows: pd.DataFrame) -> None:
    assert len(rows) == 4 * len(KINDS)
    assert rows.columns.tolist() == [
        "key",
        "variant",
        "person",
        "kind",
        "psnr",
        "texture",
        "landmark_id",
        "folded",
    ]
    assert not rows.duplicated(["key", "variant", "kind"]).any()
    assert rows.query("kind == 'lq'")["folded"].isna().all()


def test_means_and_differences_are_what_they_are_called(rows: pd.DataFrame) -> None:
    summary = summarise(rows, Bootstrap(300, 0.95, 0))
    assert summary["pictures"]["lq"]["psnr"]["mean"] == 23
    assert summary["pictures"]["out"]["psnr"]["mean"] == 29
    assert summary["pictures"]["lq"]["psnr"]["n"] == 4
    assert "folded" not in summary["pictures"]["lq"]
    assert summary["pictures"]["warp"]["folded"] == {"mean": 0, "low": 0, "high": 0, "n": 4, "people": 3}
    assert summary["differences"]["out-id"]["psnr"] == {"mean": 5, "low": 5, "high": 5, "n": 4, "people": 3}
    assert summary["differences"]["warp-gp"]["landmark_id"]["mean"] == -1
    assert "landmark_id" not in summary["differences"]["out-id"]
    assert flat(summary)["out-id.psnr"] == 5
    still = summary["pictures"]["gp"]["landmark_id"]["mean"]
    assert summary["alignment"]["mean"] == pytest.approx(1 / still)  # one less of that
    assert flat(summary)["alignment.landmark_reduction"] == summary["alignment"]["mean"]
    assert kinds_frame(summary).set_index("kind").loc["out", "psnr"] == 29


def test_a_ratio_is_compared_by_its_distance_from_one(rows: pd.DataFrame) -> None:
    difference = summarise(rows, Bootstrap(50, 0.95, 0))["differences"]["out-id"]["texture_from_1"]
    # |0.56 - 1| - |0.51 - 1| = -0.05 for two, |1.56 - 1| - |1.51 - 1| = +0.05 for two
    assert difference["mean"] == pytest.approx(0, abs=1e-9)


def test_a_ratio_nearer_to_one_from_either_side_is_better(rows: pd.DataFrame) -> None:
    ratios = {"id": (0.8, 0.8, 1.4, 1.4), "out": (0.9, 0.9, 1.0, 1.0)}
    for kind, values in ratios.items():
        rows.loc[rows["kind"] == kind, "texture"] = values
    difference = summarise(rows, Bootstrap(50, 0.95, 0))["differences"]["out-id"]["texture_from_1"]
    assert difference["mean"] == pytest.approx((-0.1 - 0.1 - 0.4 - 0.4) / 4, abs=1e-9)


def test_pairs_are_matched_by_face_and_not_by_place(rows: pd.DataFrame) -> None:
    shuffled = rows.sample(frac=1, random_state=3)
    bootstrap = Bootstrap(100, 0.95, 0)
    assert (
        summarise(shuffled, bootstrap)["differences"]["out-id"]
        == summarise(rows, bootstrap)["differences"]["out-id"]
    )


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("psnr", 0.1, 0.5, "better"),
        ("psnr", -0.5, -0.1, "worse"),
        ("psnr", -0.1, 0.1, "undecided"),
        ("nlpd", -0.5, -0.1, "better"),
        ("nlpd", 0.1, 0.5, "worse"),
        ("texture", -0.5, -0.1, "better"),
        ("psnr", None, None, "undecided"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(
    metric: str, low: float | None, high: float | None, expected: str
) -> None:
    assert verdict(BY_NAME[metric], {"mean": 0, "low": low, "high": high, "n": 9}) == expected


def test_the_best_is_the_highest_the_lowest_or_the_nearest_to_one() -> None:
    def pictures(metric: str, **means: float) -> dict:
        return {kind: {metric: {"mean": mean}} for kind, mean in means.items()}

    assert best_kind(pictures("psnr", lq=20, id=30, out=25), BY_NAME["psnr"]) == "id"
    assert best_kind(pictures("nlpd", lq=20, id=30, out=25), BY_NAME["nlpd"]) == "lq"
    assert best_kind(pictures("texture", lq=0.2, id=1.3, out=0.8), BY_NAME["texture"]) == "out"
    assert best_kind(pictures("folded", warp=0.2), BY_NAME["folded"]) is None

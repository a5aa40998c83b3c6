"""The report holds every figure, alone in one file."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cfpp.config import load_params
from cfpp.data.manifest import shard_path
from cfpp.data.shards import read_shard
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.measure import KINDS
from cfpp.evaluation.metrics import METRICS
from cfpp.evaluation.panels import STEPS, make_panel
from cfpp.evaluation.plots import curves_figure, landmark_figure, landmark_frame, means_figure
from cfpp.evaluation.report import Plots, render_report
from cfpp.evaluation.table import figure_rows, summarise
from pipelines.evaluate import evaluate
from tests.evaluation.test_evaluate import PARAMS, SIDE, VARIANTS, make_project
from tests.tiny_shards import write_stage

REASON = 'needs squeezenet <b> (weights.root is "")'


class Page(HTMLParser):
    """Cells with figures, and where everything comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str], tuple[dict[str, str], str]] = {}
        self.sources: list[str] = []
        self.text = ""
        self._open: tuple[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.sources += [named[name] for name in ("src", "href") if name in named]
        if tag == "td":
            group = named.get("data-kind") or named.get("data-pair")
            self._open = (group, named["data-metric"]) if group else None
            if self._open:
                self.cells[self._open] = (named, "")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            named, text = self.cells[self._open]
            self.cells[self._open] = (named, f"{text} {data}")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    figures = {
        kind: {metric.name: rng.uniform(0.1, 30, 6) for metric in METRICS if metric.name != "lpips"}
        for kind in KINDS
    }
    for kind in KINDS:
        if kind != "warp":
            del figures[kind]["folded"]
    del figures["id"]["landmark_id"]
    return figure_rows([f"k{i}" for i in range(6)], [0] * 6, [f"p{i // 2}" for i in range(6)], figures)


@pytest.fixture(scope="module")
def summary(rows: pd.DataFrame) -> dict[str, Any]:
    about = {
        "study": None,
        "samples": 6,
        "faces": 6,
        "identities": 3,
        "size": 64,
        "confidence": 0.95,
        "bootstrap": 200,
    }
    return summarise(rows, Bootstrap(200, 0.95, 0)) | {
        "unavailable": {"lpips": REASON},
        "instruments": {"identity": "embedded probe"},
        "about": about,
    }


@pytest.fixture(scope="module")
def page(rows: pd.DataFrame, summary: dict[str, Any]) -> Page:
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for name in STEPS}
    pictures["mask"] = pictures["mask"][..., 0]
    panel = make_panel("p1", 1, pictures, rng.normal(size=(2, 32, 32)))
    curves = {"dam": pd.DataFrame({"step": [0, 10, 20], "loss": [3.0, 2.0, 1.0], "val": [np.nan, 2, 1]})}
    plots = Plots(means_figure(summary), landmark_figure(rows), curves_figure(curves))
    page = Page()
    page.html = render_report(summary, [panel], plots, {"git_commit": "c0ffee<"})  # type: ignore[attr-defined]
    page.feed(page.html)  # type: ignore[attr-defined]
    return page


def test_every_figure_of_metrics_json_is_in_its_cell(page: Page, summary: dict[str, Any]) -> None:
    groups = summary["pictures"] | summary["differences"]
    expected = {(group, metric) for group, figures in groups.items() for metric in figures}
    assert set(page.cells) == expected
    assert len(expected) > 60
    for (group, metric), (named, text) in page.cells.items():
        estimate = groups[group][metric]
        for part in ("mean", "low", "high", "n"):
            assert float(named[f"data-{part}"]) == estimate[part]
        shown = float(re.search(r"[+-]?\d+\.\d+", text).group())  # type: ignore[union-attr]
        assert shown == pytest.approx(estimate["mean"], abs=6e-3), (group, metric, text, named)


def test_it_needs_no_other_file(page: Page) -> None:
    assert len(page.sources) >= len(STEPS) + 4
    assert all(source.startswith("data:image/") for source in page.sources)


def test_what_is_not_computed_says_so_and_never_is_zero(page: Page) -> None:
    assert f"lpips: {REASON}" in page.text
    assert f"unavailable: {REASON}" in page.text
    assert not any(metric == "lpips" for _, metric in page.cells)


def test_it_says_what_it_was_made_of(page: Page) -> None:
    assert "c0ffee<" in page.text
    assert "6 degraded pictures of 6 faces, 3 people" in " ".join(page.text.split())
    assert "embedded probe" in page.text


def test_a_controlled_run_is_labelled_and_a_real_one_is_not(tmp_path: Path) -> None:
    params = load_params(PARAMS)
    params = replace(
        params,
        run=replace(params.run, size=SIDE),
        evaluate=replace(params.evaluate, bootstrap=20, pictures=1),
        train_tgrn=replace(params.train_tgrn, train=replace(params.train_tgrn.train, threads=1)),
    )
    make_project(tmp_path, procedural=True)
    restored = tmp_path / "data/restored"
    for study in (None, "controlled"):
        if study:
            faces = list(read_shard(shard_path(restored, "test", 0)))
            mark = {f"{variant}.draw.json": b'{"controlled": true}' for variant in range(VARIANTS)}
            write_stage(restored, {"test": [(key, members | mark) for key, members in faces]})
        evaluate(params, tmp_path, tmp_path)
        about = json.loads((tmp_path / "reports/metrics.json").read_text())["about"]
        assert about["study"] == study
        found = Page()
        found.feed((tmp_path / "reports/report.html").read_text())
        banner = "Controlled study: I_F and I_G were made from I_HQ; no result of a restorer."
        assert (banner in found.text) == bool(study)
        if study:
            assert found.text.index(banner) < found.text.index("degraded pictures of")


def test_plots_are_the_same_bytes_each_time(summary: dict[str, Any], rows: pd.DataFrame) -> None:
    assert means_figure(summary) == means_figure(summary)
    assert landmark_figure(rows) == landmark_figure(rows)
    assert curves_figure({}) is None
    assert landmark_figure(rows.drop(columns="landmark_id")) is None


def test_the_landmark_table_pairs_the_two_pictures_of_a_face(rows: pd.DataFrame) -> None:
    table = landmark_frame(rows)
    one = rows.query("key == 'k3'").set_index("kind")["landmark_id"]
    found = table.set_index("key").loc["k3"]
    assert (found["gp"], found["warp"]) == (one["gp"], one["warp"])

"""How often the gate is wrong, on the real scores of two trainings on the embedded faces.

gate_scores.csv is reports/promotion/scores.csv of the default project: TGRN of training seed 0 and of seed 1.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import gate
from cfpp.config import load_params
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.gate import JUDGED, POWER, gains_of, judge
from cfpp.evaluation.gate_simulation import simulate
from cfpp.gate_params import RuleParams

FILE = Path(__file__).with_name("gate_scores.csv")
SCORES = pd.read_csv(FILE)
PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
SECTION = load_params(PARAMS).promote
BOOTSTRAP = Bootstrap(500, SECTION.confidence, 0)


def test_the_gate_is_seldom_wrong_and_seldom_blind_on_real_scores() -> None:
    judged = judge(SCORES, SECTION, BOOTSTRAP, against_champion=True, latency=0.0, reasons={})
    assert judged.needed is not None
    assert 6 <= judged.needed <= judged.people == 17
    found = simulate(SCORES, SECTION.rules, BOOTSTRAP, judged.people)
    assert found.draws == 1000
    assert found.without <= 0.05
    assert found.with_effect >= POWER
    least = simulate(SCORES, SECTION.rules, BOOTSTRAP, judged.needed)
    assert least.without <= 0.05
    assert least.with_effect >= POWER


@pytest.mark.parametrize("metric", ["psnr", "nlpd", "identity", "texture"])
def test_each_metric_alone_keeps_its_promise_at_the_people_that_are_needed(metric: str) -> None:
    gains, _ = gains_of(SCORES, JUDGED[metric])
    # an effect for which about 15 people are needed
    effect = float(0.8 * np.std(gains.reshape(17, -1).mean(axis=1), ddof=1))
    only = RuleParams(metric=metric, margin=0.0, effect=effect)
    section = type(SECTION)(rules=(only,), floors=(), latency_ceiling=0.0, confidence=0.95)
    needed = judge(SCORES, section, BOOTSTRAP, against_champion=True, latency=0.0, reasons={}).needed
    assert needed is not None
    assert 13 <= needed <= 17
    found = simulate(SCORES, (only,), BOOTSTRAP, needed, draws=500)
    assert found.without <= 0.05
    assert found.with_effect >= 0.75  # 80 % is meant; 500 draws and skewed gains leave some room
    assert simulate(SCORES, (only,), BOOTSTRAP, 6, draws=200).with_effect < 0.7  # and fewer do not do


def test_the_measurement_can_be_repeated_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace("bootstrap: 2000", "bootstrap: 200"))
    monkeypatch.chdir(tmp_path)
    pair = [tmp_path / "first.csv", tmp_path / "second.csv"]
    for path, kind in zip(pair, ("champion", "challenger"), strict=True):  # as the evaluation writes them
        SCORES[SCORES["kind"] == kind].assign(kind="out").to_csv(path, index=False)
    said = []
    for files in ([str(FILE)], [str(path) for path in pair]):
        monkeypatch.setattr(sys, "argv", ["gate", *files, "--draws", "20", "--people", "9"])
        gate.main()
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "people: 17 here, " in said[0]
    assert "9 people, 20 draws: promoted without a true difference " in said[0]
    monkeypatch.setattr(sys, "argv", ["gate"])
    with pytest.raises(SystemExit, match=r"promotion/scores\.csv"):
        gate.main()

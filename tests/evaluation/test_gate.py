"""The gate: what it asks, what it says, and how sure it is."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cfpp.config import ParamsError, load_params
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.gate import CHALLENGER, CHAMPION, JUDGED, Judgement, check_metrics, judge
from cfpp.evaluation.gate_table import markdown
from cfpp.evaluation.improvement import (
    deviation,
    expanded,
    improvements,
    mean_improvement,
    people_needed,
)
from cfpp.gate_params import FloorParams, PromoteParams, RuleParams

BOOTSTRAP = Bootstrap(1000, 0.95, 0)


def scores(gain: float = 1.0, people: int = 30, noise: float = 1.0, shots: int = 2) -> pd.DataFrame:
    """PSNR, LPIPS and texture of both; the challenger gains that many dB, gains / 100 of the others."""
    rng = np.random.default_rng(people)
    keys = [f"p{person:02d}s{shot}" for person in range(people) for shot in range(shots)]
    base = rng.normal(22, 3, len(keys))
    gains = gain + np.repeat(rng.normal(0, noise, people), shots)
    frame = pd.DataFrame({"key": keys, "variant": 0, "person": [key[:3] for key in keys]})
    before = frame.assign(kind=CHAMPION, psnr=base, lpips=0.3 - base / 200, texture=1.4)
    after = frame.assign(
        kind=CHALLENGER, psnr=base + gains, lpips=0.3 - (base + 2 * gains) / 200, texture=1.4 - gains / 100
    )
    return pd.concat([before, after.sample(frac=1, random_state=0)], ignore_index=True)  # in any order


def section(*rules: RuleParams, floors: tuple[FloorParams, ...] = (), ceiling: float = 0.0) -> PromoteParams:
    return PromoteParams(rules=rules, floors=floors, latency_ceiling=ceiling, confidence=0.95)


def rule(metric: str, margin: float = 0.0, effect: float = 1.0) -> RuleParams:
    return RuleParams(metric=metric, margin=margin, effect=effect)


def decide(
    frame: pd.DataFrame, params: PromoteParams, *, champion: bool = True, latency: float = 0.1
) -> Judgement:
    reasons = {"identity": "no embedder"}
    return judge(frame, params, BOOTSTRAP, against_champion=champion, latency=latency, reasons=reasons)


def test_more_is_better_whatever_the_metrics_direction() -> None:
    before, after = np.array([1.2, 0.7, 1.0]), np.array([1.1, 1.5, 0.9])
    np.testing.assert_allclose(improvements(JUDGED["psnr"], before, after), [-0.1, 0.8, -0.1])
    np.testing.assert_allclose(improvements(JUDGED["lpips"], before, after), [0.1, -0.8, 0.1])
    np.testing.assert_allclose(improvements(JUDGED["texture"], before, after), [0.1, -0.2, -0.1])


def test_the_interval_is_as_wide_as_students_and_the_plain_one_is_not() -> None:
    people = 8
    rng, ratios, plain = np.random.default_rng(0), [], []
    names = [str(person) for person in range(people)]
    for run in range(200):
        gains = rng.normal(0, 1, people)
        low, high = stats.t.interval(0.95, people - 1, gains.mean(), stats.sem(gains))
        found = mean_improvement(gains, names, Bootstrap(4000, 0.95, run))
        usual = Bootstrap(4000, 0.95, run).mean(gains, names)
        assert found.low is not None
        assert found.high is not None
        assert usual.low is not None
        assert usual.high is not None
        ratios.append((found.high - found.low) / (high - low))
        plain.append((usual.high - usual.low) / (high - low))
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)
    assert np.mean(plain) < 0.8
    assert expanded(0.95, 100_000) == pytest.approx(0.95, abs=1e-4)


def test_a_new_champion_without_merit_comes_in_5_percent_of_cases_or_fewer_even_with_few_people() -> None:
    rng, won = np.random.default_rng(3), 0
    for run in range(1000):
        gains = rng.normal(0, 1, 8)
        found = mean_improvement(gains, [str(i) for i in range(8)], Bootstrap(500, 0.95, run))
        assert found.low is not None
        won += found.low > 0
    assert won <= 50
    assert won >= 5  # 2.5 % is what is meant


@pytest.mark.parametrize(("spread", "distance"), [(1.0, 0.5), (0.03, 0.02), (1.0, 2.0), (2.0, 0.5)])
def test_the_people_needed_are_the_fewest_that_bring_the_power(spread: float, distance: float) -> None:
    needed = people_needed(spread, distance, 0.95, 0.9)
    rng = np.random.default_rng(1)

    def power(people: int) -> float:
        gains = rng.normal(distance, spread, (20_000, people))
        lows = gains.mean(1) - stats.t.ppf(0.975, people - 1) * gains.std(1, ddof=1) / np.sqrt(people)
        return float((lows > 0).mean())

    assert power(needed) > 0.89
    assert needed == 6 or power(needed - 1) < 0.91
    assert needed == 6 or power(int(needed * 0.8)) < 0.88


def test_people_are_counted_not_their_faces() -> None:
    gains = np.random.default_rng(2).normal(0, 1, 40)
    people = [str(i) for i in range(40)]
    assert deviation(gains, people) == pytest.approx(np.std(gains, ddof=1))
    assert deviation(gains.repeat(3), np.repeat(people, 3).tolist()) == pytest.approx(np.std(gains, ddof=1))
    assert people_needed(0.0, 1.0, 0.95, 0.8) == 6
    assert people_needed(1.0, 1e-9, 0.95, 0.8) == 10_000_000


def test_all_rules_floors_and_the_ceiling_must_hold() -> None:
    better = scores(gain=1.0)
    params = section(rule("psnr"), rule("lpips", -0.02, 0.01), rule("texture", 0.0, 0.01))
    found = decide(better, params)
    assert found.passed
    assert [verdict.passed for verdict in found.rules] == [True] * 3
    assert found.rules[1].improvement is not None
    assert found.rules[1].improvement.mean == pytest.approx(found.rules[0].improvement.mean / 100)  # type: ignore[union-attr]
    assert found.rules[2].improvement.mean == pytest.approx(found.rules[0].improvement.mean / 100)  # type: ignore[union-attr]
    assert decide(better, section(rule("psnr", 2.0, 3.0))).failed == ["psnr"]
    assert decide(scores(gain=-1.0), params).failed == ["psnr", "texture"]  # LPIPS is not worse by more
    assert decide(scores(gain=0.0), section(rule("psnr"))).failed == ["psnr"]

    floors = (FloorParams(metric="psnr", value=20.0), FloorParams(metric="lpips", value=0.1))
    limits = replace(params, floors=(*floors, FloorParams(metric="texture", value=0.5)), latency_ceiling=0.05)
    assert decide(better, limits).failed == ["lpips", "latency"]
    alone = decide(better, limits, champion=False, latency=0.01)
    assert alone.rules == ()
    assert alone.failed == ["lpips"]
    assert "| PSNR, dB (high)" in markdown(alone)


def test_what_cannot_be_measured_fails_and_says_why() -> None:
    frame = scores()
    found = decide(
        frame, section(rule("psnr"), rule("identity"), floors=(FloorParams(metric="ssim", value=0.1),))
    )
    assert found.failed == ["identity", "ssim"]
    table = markdown(found)
    assert "**failed**: no embedder" in table
    assert "**failed**: not measured" in table
    gone = decide(frame[frame["kind"] == CHALLENGER], section(rule("psnr")))
    assert gone.rules[0].fault == "the champion cannot be measured"
    assert not gone.passed
    holes = frame.copy()
    holes.loc[3, "psnr"] = np.nan
    assert decide(holes, section(rule("psnr"))).rules[0].fault == "1 of 60 faces have no figure"
    few = decide(scores(gain=9.0, people=5), section(rule("psnr")))
    assert few.rules[0].fault == "5 people say nothing; 6 or more are needed"
    assert not few.passed
    with pytest.raises(ValueError, match="other faces"):
        decide(frame.drop(index=0), section(rule("psnr")))


def test_a_test_set_that_is_too_small_is_said_loudly() -> None:
    wide = section(rule("psnr", 0.0, 0.2))
    found = decide(scores(people=10, noise=1.0), wide)
    assert found.needed is not None
    assert found.needed > 100
    assert f"**Too few people**: 10 in the test set, {found.needed} needed" in markdown(found)
    assert "Too few" not in markdown(decide(scores(people=30), section(rule("psnr", 0.0, 2.0))))
    # of two rules each may miss half as often
    assert (
        decide(scores(), section(rule("psnr"), rule("lpips", 0.0, 9.0))).needed
        > decide(  # type: ignore[operator]
            scores(), section(rule("psnr"))
        ).needed
    )


def test_rules_that_ask_for_nothing_or_for_the_impossible_are_refused() -> None:
    with pytest.raises(ParamsError, match=r"effect: must be above margin 0\.5"):
        rule("psnr", 0.5, 0.5)
    with pytest.raises(ParamsError, match="rules: must have one or more with margin 0 or above"):
        section(rule("psnr", -1.0))
    with pytest.raises(ParamsError, match="rules: must name each metric once"):
        section(rule("psnr"), rule("psnr", -1.0))
    check_metrics(load_params().promote)
    with pytest.raises(ParamsError, match=r"promote.rules\[1\].metric: must be one of psnr, .* found 'lpip'"):
        check_metrics(section(rule("psnr"), rule("lpip")))
    with pytest.raises(ParamsError, match=r"promote.floors\[0\].metric: must be one of .* found 'folded'"):
        check_metrics(section(rule("psnr"), floors=(FloorParams(metric="folded", value=1.0),)))

"""Intervals that hold what they promise."""

import numpy as np
import pytest

from cfpp.evaluation.bootstrap import Bootstrap


def test_the_mean_is_plain_and_the_interval_is_about_it() -> None:
    values = np.arange(12.0)
    estimate = Bootstrap(500, 0.95, 0).mean(values, [str(i // 3) for i in range(12)])
    assert estimate.mean == pytest.approx(5.5)
    assert estimate.n == 12
    assert estimate.clusters == 4
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 < estimate.low < 5.5 < estimate.high < 11


def test_the_interval_covers_the_truth_as_often_as_it_says_and_the_naive_one_does_not() -> None:
    rng = np.random.default_rng(0)
    people, pictures, simulations = 40, 5, 300
    clustered = [str(person) for person in range(people) for _ in range(pictures)]
    alone = [str(i) for i in range(people * pictures)]
    hits = {"clustered": 0, "alone": 0}
    for run in range(simulations):
        values = rng.normal(0, 1, people).repeat(pictures) + rng.normal(0, 0.5, people * pictures)
        bootstrap = Bootstrap(300, 0.9, run)
        for name, clusters in (("clustered", clustered), ("alone", alone)):
            estimate = bootstrap.mean(values, clusters)
            assert estimate.low is not None
            assert estimate.high is not None
            hits[name] += estimate.low <= 0 <= estimate.high
    assert 0.84 <= hits["clustered"] / simulations <= 0.94
    assert hits["alone"] / simulations < 0.75


def test_the_interval_of_a_normal_mean_is_near_its_textbook_width() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    estimate = Bootstrap(4000, 0.95, 0).mean(values, [str(i) for i in range(400)])
    half = 1.96 * values.std() / np.sqrt(400)
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)


def test_people_with_more_pictures_are_resampled_whole() -> None:
    values = np.array([1.0] * 9 + [0.0])
    estimate = Bootstrap(4000, 0.95, 0).mean(values, ["a"] * 9 + ["b"])
    assert estimate.mean == pytest.approx(0.9)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_pairing_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(4)
    easy = rng.normal(0, 10, 60)
    people = [str(i) for i in range(60)]
    bootstrap = Bootstrap(1000, 0.95, 0)
    estimate = bootstrap.difference(easy + 1 + rng.normal(0, 0.1, 60), easy, people)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0.9 < estimate.low < estimate.high < 1.1
    with pytest.raises(ValueError, match="pairs"):
        bootstrap.difference(easy, easy[:-1], people)


def test_the_same_seed_and_words_give_the_same_interval() -> None:
    values, people = np.random.default_rng(0).normal(size=30), [str(i) for i in range(30)]
    bootstrap = Bootstrap(200, 0.95, 7)
    assert bootstrap.mean(values, people, "out", "psnr") == bootstrap.mean(values, people, "out", "psnr")
    assert bootstrap.mean(values, people, "out", "psnr") != bootstrap.mean(values, people, "out", "ssim")
    assert bootstrap.mean(values, people) != Bootstrap(200, 0.95, 8).mean(values, people)


def test_one_person_has_a_mean_and_no_interval() -> None:
    estimate = Bootstrap(100, 0.95, 0).mean(np.array([1.0, 3.0]), ["a", "a"])
    assert (estimate.mean, estimate.low, estimate.high) == (2.0, None, None)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [1.0, np.inf]])
def test_what_was_not_measured_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        Bootstrap(10, 0.95, 0).mean(np.array(values), ["a"] * len(values))


def test_a_reduction_is_of_the_means_and_its_interval_that_of_the_ratio() -> None:
    rng = np.random.default_rng(5)
    before = rng.uniform(1, 9, 80)
    people = [str(i) for i in range(80)]
    exact = Bootstrap(500, 0.95, 0).reduction(0.7 * before, before, people)
    assert (exact.mean, exact.low, exact.high) == pytest.approx((0.3, 0.3, 0.3))
    after = 0.7 * before + rng.normal(0, 0.5, 80)
    estimate = Bootstrap(4000, 0.95, 0).reduction(after, before, people)
    assert estimate.mean == pytest.approx(1 - after.mean() / before.mean())
    # The delta method: the ratio errs as the residuals' mean does, over the mean of what it is a share of.
    half = 1.96 * (after - (1 - estimate.mean) * before).std() / np.sqrt(80) / before.mean()
    assert estimate.low == pytest.approx(estimate.mean - half, abs=0.004)
    assert estimate.high == pytest.approx(estimate.mean + half, abs=0.004)
    with pytest.raises(ValueError, match="share"):
        Bootstrap(50, 0.95, 0).reduction(before, np.zeros(80), people)

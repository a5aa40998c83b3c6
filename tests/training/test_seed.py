"""A training's own seed: another start and order, the same data; 0 changes nothing."""

from pathlib import Path

from cfpp.training.job import training_seed

from .toy import job, run, same


def test_zero_is_the_runs_own_seed() -> None:
    assert [training_seed(seed, 0) for seed in (0, 7, 1000)] == [0, 7, 1000]


def test_others_are_distinct_and_reproducible() -> None:
    seeds = {training_seed(run_seed, seed) for run_seed in range(40) for seed in range(40)}
    assert len(seeds) == 40 * 40
    assert training_seed(3, 5) == training_seed(3, 5)
    assert all(0 <= seed < 2**48 for seed in seeds)  # torch and the draws take it as it is


def test_weights_follow_it(tmp_path: Path) -> None:
    first = run(tmp_path / "a", job(seed=training_seed(0, 0)))
    again = run(tmp_path / "b", job(seed=0))
    other = run(tmp_path / "c", job(seed=training_seed(0, 1)))
    assert same(first.weights, again.weights)
    assert not same(first.weights, other.weights)

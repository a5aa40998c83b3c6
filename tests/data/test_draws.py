"""Draws are pure functions of their words, and uniform."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpp.data.draws import generator, unit_hash

words = st.lists(st.one_of(st.text(max_size=8), st.integers(-1000, 1000)), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40), words)
def test_the_same_words_give_the_same_stream(seed: int, path: list[str | int]) -> None:
    first, again = generator(seed, *path), generator(seed, *path)
    assert (first.integers(0, 2**32, 8) == again.integers(0, 2**32, 8)).all()


@given(words, words)
def test_different_words_give_different_streams(one: list[str | int], other: list[str | int]) -> None:
    same = [(type(w), w) for w in one] == [(type(w), w) for w in other]
    assert (unit_hash(*one) == unit_hash(*other)) == same


def test_a_stream_is_frozen() -> None:
    # A change of these numbers changes every byte that every stage writes.
    assert unit_hash("split", "p00000") == 0.04613496274255802
    assert generator(0, "degradation", "p00000s00", 0).random() == 0.47025438164182065


def test_unit_hash_is_uniform() -> None:
    values = np.array([unit_hash("split", f"person {i}") for i in range(20_000)])
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 43.8  # the 0.999 quantile at 19 degrees of freedom

"""Randomness as a function of (seed, words), so that bytes never depend on order, workers or day."""

import hashlib
import json

import numpy as np


def generator(seed: int, *words: str | int) -> np.random.Generator:
    """A PCG64 generator that is a pure function of its arguments.

    Args:
        seed: `run.seed`.
        words: what is drawn, and for whom, e.g. `"degradation", key, variant`. `1` and `"1"` differ.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_digest(seed, *words))))


def unit_hash(*words: str | int) -> float:
    """A uniform number in [0, 1), a pure function of the words."""
    return (_digest(*words) >> (256 - 53)) / 2**53


def _digest(*words: str | int) -> int:
    # JSON keeps ("a", "bc") and ("ab", "c") apart, and 1 apart from "1".
    return int.from_bytes(hashlib.sha256(json.dumps(words).encode("utf-8")).digest(), "big")

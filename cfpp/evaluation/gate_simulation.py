"""How often the gate is wrong: many test sets drawn from real scores, of which the truth is known."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cfpp.data.draws import generator
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.gate import JUDGED, gains_of
from cfpp.evaluation.improvement import mean_improvement
from cfpp.gate_params import RuleParams
from cfpp.progress import progress_bar


@dataclass(frozen=True)
class Simulation:
    """Shares of the draws that the rules would promote, 0 to 1.

    Attributes:
        draws: how many test sets.
        people: in each.
        without: where champion and challenger are truly equal.
        with_effect: where the challenger is truly better by the effect of every rule.
    """

    draws: int
    people: int
    without: float
    with_effect: float


def simulate(
    scores: pd.DataFrame, rules: Sequence[RuleParams], bootstrap: Bootstrap, people: int, draws: int = 1000
) -> Simulation:
    """Draw test sets of `people` people, with replacement, and let the rules judge them.

    People come with all their faces. The mean of each metric's paired differences is taken away first, so
    that neither is truly better; people differ and metrics hang together as they really do. Floors and
    latency have no part in it.

    Args:
        scores: of `gate.judge`, with both kinds.

    Raises:
        ValueError: a rule's metric is not there, or not for all faces.
    """
    centred, owners = [], list[str]()
    for rule in rules:
        if rule.metric not in scores:
            raise ValueError(f"{rule.metric}: not among the scores")
        gains, owners = gains_of(scores, JUDGED[rule.metric])
        centred.append(gains - gains.mean())
    _, index = np.unique(np.asarray(owners), return_inverse=True)
    faces = [np.flatnonzero(index == person) for person in range(index.max() + 1)]
    without = with_effect = 0
    with closing(progress_bar(draws, f"simulate {people} people", "draw")) as bar:
        for draw in range(draws):
            drawn = generator(bootstrap.seed, "gate", people, draw).integers(0, len(faces), people)
            where = np.concatenate([faces[person] for person in drawn])
            names = np.repeat(np.arange(people), [len(faces[person]) for person in drawn]).astype(str)
            lows = [
                mean_improvement(gains[where], names.tolist(), bootstrap, "simulated", str(draw)).low
                for gains in centred
            ]
            # an effect moves every gain, and so the interval, by as much
            pairs = [(rule, low) for rule, low in zip(rules, lows, strict=True) if low is not None]
            without += len(pairs) == len(rules) and all(low > rule.margin for rule, low in pairs)
            with_effect += len(pairs) == len(rules) and all(
                low + rule.effect > rule.margin for rule, low in pairs
            )
            bar.update(1)
    return Simulation(draws, people, without / draws, with_effect / draws)

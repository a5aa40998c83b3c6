"""The learning rate of a step, in closed form."""

import math

from cfpp.training_params import TrainParams


def learning_rate(params: TrainParams, step: int) -> float:
    """Half a cosine from ``learning_rate`` down to ``final_learning_rate``, halved at every milestone passed.

    Args:
        params: one run's training section.
        step: 0-based.
    """
    start, final = params.learning_rate, params.final_learning_rate
    rate = final + 0.5 * (start - final) * (1 + math.cos(math.pi * step / params.steps))
    halvings = sum(step >= milestone for milestone in params.milestones)
    return float(rate * 0.5**halvings)

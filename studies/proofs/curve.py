"""Curves of forgetting: the scores of a model while it forgets, read at one level of forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from studies.proofs.claim import Scores

Curve = Sequence[Scores]  # in the order of the steps; the first point is the original


def at_level(curve: Curve, score: str, level: float) -> Scores | None:
    """All scores where `score` first falls to `level`, by linear interpolation between the two points around it.

    Args:
        curve: points in the order of the steps.
        score: the score that falls with forgetting, such as the probability of the forgotten answers.
        level: the value at which to read.

    Returns:
        The scores that both points have; None where the curve never falls that far.
    """
    if curve and curve[0][score] <= level:
        return curve[0]
    for before, after in pairwise(curve):
        if after[score] <= level:
            share = (before[score] - level) / (before[score] - after[score])
            return {name: (1 - share) * before[name] + share * after[name] for name in before if name in after}
    return None

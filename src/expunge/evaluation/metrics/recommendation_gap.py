"""Gaps to the retrained model in recall: of items to be forgotten, of training interactions to keep, and of unseen items.
Less recall of forgotten items is no better than as much as the retrained model has: their absence gives them away, too.

Equation: gap = |recall@K - recall@K of the retrained model|, each a mean over users
Source: MMRecUn (arXiv 2405.15328): every number as close as possible to that of the model trained without the rows
Scores: forget_gap, retain_gap, test_gap, recommendation_gap
Needs: forget, retain, holdout or test; ranks; retrained
Range and ideal: 0 to 1; ideal 0. Two retrained models with other seeds differ a little as well
Differs: recommendation_gap, the mean of the three, is ours
Status: faithful
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.metrics.recommendation import CUTS, SETS, WHOSE, places_by_user
from expunge.evaluation.observation import SetObservation

READS = frozenset({"ranks"})  # what must have been observed
OVERALL = "recommendation_gap"
SCORES = {
    **{
        f"{name}_gap": ScoreSpec("utility", "lower", f"difference in recall of the {whose} from the retrained model", ideal=0.0)
        for name, whose in WHOSE.items()
    },
    OVERALL: ScoreSpec("utility", "lower", "difference in recall from the retrained model, averaged over the sets", ideal=0.0),
}
VARIANTS = dict.fromkeys(SCORES, tuple(CUTS))


def weighted_hits(k: int, observation: SetObservation) -> Items:
    """For each row whether its item is among the first k, weighted so that the mean over rows is the mean over users, (rows,)."""
    places_by_user(observation)  # refuses a broken model
    assert observation.ranks is not None
    users, place, counts = np.unique(observation.question, return_inverse=True, return_counts=True)
    return np.asarray((observation.ranks < k) * (len(place) / len(users) / counts[place]), np.float64)


def gap(*both: Items) -> float:
    """The mean of absolute differences. both: values under the model and the retrained one, (rows, 2) of each set."""
    return float(np.mean([abs(x[:, 0].mean() - x[:, 1].mean()) for x in both]))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def pairs(name: str, k: int) -> Items:
        of_set = next((one for one in SETS[name] if one in evidence.model.sets), SETS[name][-1])
        return evidence.pairs(of_set, partial(weighted_hits, k))

    def measure(score: str, names: tuple[str, ...]) -> Measure:
        variant = evidence.variant(score, VARIANTS[score])
        return Measure(tuple(pairs(name, CUTS[variant]) for name in names), gap, variant)

    gaps = {f"{name}_gap": attempt(measure, f"{name}_gap", (name,)) for name in SETS}
    return {**gaps, OVERALL: attempt(measure, OVERALL, tuple(SETS))}

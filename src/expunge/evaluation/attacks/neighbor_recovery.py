"""Neighbor recovery: are the items of deleted interactions still the nearest ones to what is left of their user?
Vectors keep what interactions taught them: items that were had together lie together, and so lead from kept items to deleted ones.

Threat model: the attacker holds the weights, and the interactions of the user that were kept (of a user without any, the user's own
    vector); nothing is changed.
Source: our own, after Zhang et al. 2021, membership inference against recommenders (arXiv 2109.08045), whose attacker reads vectors of
    items
Scores: neighbor_recovery
Needs: forget; vectors of users and items
Range and ideal: recall at K of deleted items among the neighbors, 0 to 1; ideal as the retrained model's, whose other users lead there as
    well; the control is the original
Differs: nothing
Status: faithful

Neighbors are all items that the user does not have, those first whose vectors have the largest cosine with the mean direction of the
vectors of the items that the user has. K is as in recall; the score is a mean over users.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.recommendation import CUTS
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.representations import NEIGHBOR, observed

READS = frozenset({"vectors"})  # what must have been observed
SCORES = {
    "neighbor_recovery": ScoreSpec(
        "knowledge",
        "retrained",
        "share of the deleted items among the K nearest ones to what is left of their user",
        shows=True,
        margin=0.1,
        decides=False,
    )
}
VARIANTS = {"neighbor_recovery": tuple(CUTS)}


def recovered(k: int, observation: SetObservation) -> Items:
    """Recall among the first k neighbors, at the first row of each user, nan at further rows, (rows,)."""
    places = observed(observation, NEIGHBOR)[:, 0]
    rows_of: dict[str, list[int]] = {}
    for i, user in enumerate(observation.question):
        if not np.isnan(places[i]):
            rows_of.setdefault(user, []).append(i)
    shares = np.full(len(places), np.nan)
    for rows in rows_of.values():
        shares[rows[0]] = (places[rows] < k).mean()
    return shares


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def measure() -> Measure:
        variant = evidence.variant("neighbor_recovery", VARIANTS["neighbor_recovery"])
        return averaged(evidence.items("forget", partial(recovered, CUTS[variant])), variant)

    return {"neighbor_recovery": attempt(measure)}

"""EZ-MIA: at the tokens that the model gets wrong, did training still raise the true one? There memory shows that no mean loss shows.
Where a model is right it is so with and without an item; where it errs, members were pushed up and unseen items were not.

Threat model: the attacker reads token probabilities of answers under the model and under one that never saw the forget set; nothing is
    changed.
Equation: d_t = log p(y_t) - log p_r(y_t) at positions t with argmax p != y_t; score = sum of max(d_t, 0) / sum of max(-d_t, 0)
Source: Ilic et al. 2026, arXiv 2601.12104 (code: JetBrains-Research/ez-mia)
Scores: ez_mia
Needs: forget, holdout; retrained
Range and ideal: AUC 0 to 1, ideal as the retrained model's, 0.5
Differs: reconstructed from its description: the reference is the retrained model, not the pretrained one; sums get 1e-6 added; an answer in
    which the model errs nowhere accuses the most, and if all do, they tell nothing
Status: not shown
"""

from __future__ import annotations

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.token_values import beside_retrained

READS = frozenset({"tokens"})  # what must have been observed
TINY = 1e-6
LARGEST = 1e12  # of answers without an error
SCORES = {
    "ez_mia": ScoreSpec(
        "membership",
        "retrained",
        "how well forgotten items are told from unseen ones by the tokens that the model gets wrong; 0.5: not at all",
        margin=0.15,
        decides=False,
    )
}


def imbalance(own: Items, reference: Items, hit: Items) -> float:
    """How much more the log-probabilities of the tokens of an answer rose than fell where the model errs; (tokens,) each: high accuses."""
    shift = (own - reference)[hit == 0]
    if not len(shift):
        return LARGEST
    return float((np.maximum(shift, 0).sum() + TINY) / (np.maximum(-shift, 0).sum() + TINY))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def measure() -> Measure:
        forgotten, unseen = (
            np.array([-imbalance(own[:, 0], other[:, 0], own[:, 1]) for own, other in beside_retrained(evidence, name)])
            for name in ("forget", "holdout")
        )
        return Measure((forgotten, unseen), auc, "against the retrained model", kernel=precedes)

    return {"ez_mia": attempt(measure)}

"""Label AUC: does the recommender score items that users liked above items that they disliked?
Where the rows to forget were wrong ones, to forget them must raise it, above all for the users and the items that they touched.

Source: Zhang et al. 2023, IFRU (arXiv 2307.02147)
Scores: label_auc, label_auc_or, label_auc_and
Needs: test (likes) and disliked; label_auc_or and label_auc_and: forget
Range and ideal: 0 to 1, 0.5 by chance; higher, as the retrained model's
Differs: nothing
Status: faithful

The AUC is the share of pairs of a liked and a disliked row, of whatever users, in which the liked one has the higher score. `or` counts
rows whose user or item stands in a row to forget, `and` those whose user and item both do.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.representations import SCORE, observed

READS = frozenset({"vectors"})  # what must have been observed
_MEANING = "how often a liked item scores above a disliked one"
SCORES = {
    "label_auc": ScoreSpec("utility", "higher", _MEANING),
    "label_auc_or": ScoreSpec("utility", "higher", f"{_MEANING}, of users or items with rows to forget"),
    "label_auc_and": ScoreSpec("utility", "higher", f"{_MEANING}, of users and items that both have rows to forget"),
}
LIKED, DISLIKED = "test", "disliked"  # the sets that it reads


def lowered(touched: str, evidence: Evidence, observation: SetObservation) -> Items:
    """Minus the score of each row, (rows,), nan for rows that the rows to forget do not touch. touched: '', or, and."""
    scores_of_rows = -observed(observation, SCORE)[:, 0]
    if not touched:
        return np.asarray(scores_of_rows)
    if "forget" not in evidence.model.sets:
        raise Missing("the audit has no forget set")
    forget = evidence.model.sets["forget"]
    hits = np.stack([np.isin(observation.question, forget.question), np.isin(observation.answer, forget.answer)])
    return np.asarray(np.where(hits.any(0) if touched == "or" else hits.all(0), scores_of_rows, np.nan))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card; none where no set of disliked rows is asked about."""
    if DISLIKED not in evidence.model.sets:
        return {}

    def measure(touched: str) -> Measure:
        disliked, liked = (evidence.items(n, partial(lowered, touched, evidence)) for n in (DISLIKED, LIKED))
        return Measure((liked, disliked), auc, kernel=precedes)

    return {name: attempt(measure, name.removeprefix("label_auc").strip("_")) for name in SCORES}

"""Group fairness: does unlearning cost some users more than others? The gap in NDCG between active and inactive users.
Methods that repair a model with many rows of few users keep those happy, and a mean over users hides what the others lost.

Source: Chen et al. 2024, CURE4Rec (arXiv 2408.14393): A-IGF, after Li et al. 2021, user-oriented fairness (arXiv 2104.10671)
Scores: a_igf, active_ndcg, inactive_ndcg
Needs: test, else holdout; ranks
Range and ideal: all 0 to 1; a_igf = |active_ndcg - inactive_ndcg|, ideal as the retrained model's, or less
Differs: both parts and their gap come from one and the same model, where the authors' code takes utility from the best epoch and the gap
    from the last, with its sign; there is no variance over shards
Status: faithful

Active users are the 5 % with the most training interactions among those that remain once the rows to forget are gone; so they are the same
users in the original, the unlearned and the retrained model.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.recommendation import NDCG_VARIANTS, SETS, per_user
from expunge.evaluation.observation import SetObservation
from expunge.evaluation.representations import ACTIVE, observed

READS = frozenset({"ranks", "vectors"})  # what must have been observed
SCORES = {
    "a_igf": ScoreSpec("utility", "lower", "difference in NDCG of unseen items between active and inactive users", ideal=0.0),
    "active_ndcg": ScoreSpec("utility", "higher", "how early unseen items of active users, the 5 % with the most rows, are recommended"),
    "inactive_ndcg": ScoreSpec("utility", "higher", "how early unseen items of the other users are recommended"),
}
VARIANTS = dict.fromkeys(SCORES, NDCG_VARIANTS)


def by_user(variant: str, observation: SetObservation) -> tuple[Items, Items]:
    """NDCG of each user, and whether the user is active, both (users,), in the order of the users' first rows."""
    flags = observed(observation, ACTIVE)[:, 0]
    first = list({user: i for i, user in reversed(list(enumerate(observation.question)))}.items())
    place = dict(first)
    return per_user("ndcg", variant, observation), np.array([flags[place[user]] for user in dict.fromkeys(observation.question)])


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def ndcg(variant: str, active: bool) -> Items:
        of_set = next((one for one in SETS["test"] if one in evidence.model.sets), SETS["test"][-1])

        def of_kind(observation: SetObservation) -> Items:
            values, flags = by_user(variant, observation)
            if not (flags == active).any():
                raise Missing(f"none of the users is {'active' if active else 'inactive'}")
            return np.asarray(np.where(flags == active, values, np.nan))

        return evidence.items(of_set, of_kind)

    def part(name: str, active: bool) -> Measure:
        variant = evidence.variant(name, VARIANTS[name])
        return averaged(ndcg(variant, active), variant)

    def gap() -> Measure:
        variant = evidence.variant("a_igf", VARIANTS["a_igf"])
        return Measure((ndcg(variant, True), ndcg(variant, False)), difference, variant)

    makers = {"a_igf": gap, "active_ndcg": partial(part, "active_ndcg", True), "inactive_ndcg": partial(part, "inactive_ndcg", False)}
    return {name: attempt(make) for name, make in makers.items()}


def difference(active: Items, inactive: Items) -> float:
    """The absolute difference of two means."""
    return abs(float(active.mean() - inactive.mean()))

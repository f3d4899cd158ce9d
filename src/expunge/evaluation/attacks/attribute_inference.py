"""Attribute inference: do the vectors of forgotten users still say who they were (a gender, an age group, a taste)?
A user's vector that is left as it was tells whoever holds the model what the user never meant to leave there.

Threat model: the attacker holds the weights, and an attribute of some users who are not to be forgotten; nothing is changed.
Source: Beigi et al. 2020 (arXiv 1911.09872) and Ganhör et al. 2022 (arXiv 2206.04500) for the attack on vectors of users
Scores: attribute_inference
Needs: forget, retain, with a column of texts that says the same in all rows of a user; vectors of users
Range and ideal: share of forgotten users whose attribute is inferred, 0 to 1; ideal as the retrained model's; the control is the original
Differs: logistic regression on standardized vectors, where the papers train networks: small sets need no more
Status: faithful
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.representations import ATTRIBUTE, USER, observed

READS = frozenset({"vectors"})  # what must have been observed
SCORES = {
    "attribute_inference": ScoreSpec(
        "knowledge",
        "retrained",
        "share of the forgotten users whose attribute the vectors of other users help to infer from theirs",
        shows=True,
        margin=0.2,
        decides=False,
    )
}


def of_users(observation: SetObservation) -> dict[str, tuple[Items, float]]:
    """The vector and the number of the attribute of each user who has both."""
    rows = zip(observation.question, observed(observation, USER), observed(observation, ATTRIBUTE)[:, 0], strict=True)
    return {user: (vector, code) for user, vector, code in rows if not np.isnan(code) and not np.isnan(vector).any()}


def inferred(observation: Observation) -> Items:
    """Whether the attribute of each forgotten user is inferred, (users,) of 0 and 1, in the order of their names."""
    forgotten = of_users(observation.sets["forget"])
    known = [value for user, value in of_users(observation.sets["retain"]).items() if user not in forgotten]
    if len({code for _, code in known}) < 2:
        raise Missing("no two attributes are known of users without rows to forget")
    names = sorted(forgotten)
    fitted = classifier(np.stack([v for v, _ in known]), np.array([c for _, c in known]))
    codes = np.array([forgotten[n][1] for n in names])
    return np.asarray(fitted.predict(np.stack([forgotten[n][0] for n in names])) == codes, np.float64)


def classifier(vectors: Items, codes: Items) -> Any:
    """Logistic regression from vectors (users, width) to attributes (users,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may stop before it converges
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(vectors, codes)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def measure() -> Measure:
        sets = evidence.model.sets
        if missing := [n for n in ("forget", "retain") if n not in sets]:
            raise Missing(f"the audit has no {missing[0]} set")
        return averaged(inferred(evidence.model), str(evidence.model.about.get(ATTRIBUTE, "")))

    return {"attribute_inference": attempt(measure)}

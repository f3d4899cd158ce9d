"""MIO, the membership inference oracle: a classifier learns from the original what pairs of user and item look like that it was trained on.
Asked about the forgotten pairs in the unlearned model, it should tell them from unseen pairs no better than in the retrained model.

Threat model: the attacker holds the weights of both models, and pairs whose membership in the training data of the original is known;
    nothing is changed. The oracle is strong by design: who lacks the original's training data does worse.
Source: Chen et al. 2024, CURE4Rec (arXiv 2408.14393), after Li et al. 2023, SCIF (arXiv 2304.10199)
Scores: mio
Needs: forget, retain, holdout, and test where there is one; vectors of users and items; original
Range and ideal: AUC 0 to 1, ideal as the retrained model's, about 0.5 where holdout is drawn like forget; that of the original is the
    control: where it is near 0.5 as well, the oracle has learned nothing
Differs: reconstructed: the papers describe the oracle in words. It reads the score, the product of both vectors place by place, and the
    vectors, standardized, with one hidden layer of 64. It learns from retained pairs and from unseen ones of the set test (else from one
    half of holdout, and is asked about the other), never from a forgotten pair, so that it cannot remember these. Models trained apart have
    vectors that no one rotation maps onto each other, so it judges a retrained model by its scores most of all. Of several models that
    answer together it says nothing, since their vectors are wider than the original's
Status: faithful
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, ScoreSpec, attempt
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.representations import ITEM, SCORE, USER, observed

READS = frozenset({"vectors"})  # what must have been observed
SCORES = {
    "mio": ScoreSpec(
        "membership",
        "retrained",
        "how well an oracle, which learned from the original, tells forgotten pairs from unseen ones; 0.5: not at all",
        margin=0.15,
        decides=False,
    )
}
HIDDEN = 64
LARGEST = 2000  # pairs of each kind that it learns from


def described(observation: SetObservation) -> Items:
    """What the oracle reads of each pair, (rows, features), nan where a row was not observed. Raises: Missing."""
    user, item = observed(observation, USER), observed(observation, ITEM)
    parts = [observed(observation, SCORE), user, item]
    return np.concatenate([*parts, user * item] if user.shape == item.shape else parts, axis=1)


def oracle(members: Items, others: Items, seed: int = 0) -> Any:
    """A classifier of pairs, 1 for members, fitted on as many of each kind. members, others: (pairs, features)."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng, size = np.random.default_rng(seed), min(len(members), len(others), LARGEST)
    chosen = [rng.permutation(x)[:size] for x in (members, others)]
    network = MLPClassifier(hidden_layer_sizes=(HIDDEN,), alpha=1e-2, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may stop before it converges
        return make_pipeline(StandardScaler(), network).fit(np.concatenate(chosen), np.repeat([1, 0], size))


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """The score of the card."""

    def measure() -> Measure:
        if evidence.original is None:
            raise Missing("no original model was given")
        classifier, halved = learned(evidence.original)

        def suspicion(observation: SetObservation) -> Items:
            pairs = described(observation)
            if pairs.shape[1] != classifier.n_features_in_:
                raise Missing("the model's vectors are of another width than the original's, from which the oracle learned")
            known, values = ~np.isnan(pairs).any(1), np.full(len(pairs), np.nan)
            values[known] = -classifier.predict_proba(pairs[known])[:, 1]
            return values

        def of_other_half(observation: SetObservation) -> Items:
            values = suspicion(observation)
            return np.asarray(np.where(second_half(observation), values, np.nan)) if halved else values

        unseen = evidence.items("holdout", of_other_half)
        return Measure((evidence.items("forget", suspicion), unseen), auc, "learned from the original", kernel=precedes)

    return {"mio": attempt(measure)}


@lru_cache(maxsize=8)
def learned(original: Observation) -> tuple[Any, bool]:
    """The oracle of an original model, and whether it learned from a half of the holdout set."""
    sets = original.sets
    if missing := [n for n in ("retain", "holdout") if n not in sets]:
        raise Missing(f"the audit has no {missing[0]} set")
    halved = "test" not in sets
    unseen = described(sets["holdout"])[~second_half(sets["holdout"])] if halved else described(sets["test"])
    members, others = (x[~np.isnan(x).any(1)] for x in (described(sets["retain"]), unseen))
    if min(len(members), len(others)) < 2:
        raise Missing("an oracle needs two retained pairs and two unseen ones to learn from")
    return oracle(members, others), halved


def second_half(observation: SetObservation) -> Any:
    """Every second row in the order of questions and answers, (rows,) of bool.

    The order of rows changes nothing where their texts differ. Ids, which are sealed with a secret of the machine, have no part in it.
    """
    texts = list(zip(observation.question, observation.answer, strict=True))
    order = np.array(sorted(range(len(texts)), key=texts.__getitem__), int)
    chosen = np.zeros(len(order), bool)
    chosen[order[1::2]] = True
    return chosen

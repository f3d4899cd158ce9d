"""Recommendation: where the items of each user stand in the ranking of the whole catalog; recall, NDCG, precision and MAP at K.
Forgotten items should come up as often as the retrained model brings them up, and no rarer: their absence would also give them away.

Source: Järvelin and Kekäläinen 2002 (NDCG); K, candidates and averages as in MMRec and RecBole; MMRecUn (arXiv 2405.15328) scores forgotten
    interactions so
Scores: forget_recall, forget_ndcg, forget_precision, forget_map, retain_recall, retain_ndcg, retain_precision, retain_map,
    test_recall, test_ndcg, test_precision, test_map
Needs: forget, retain, holdout; ranks
Range and ideal: all 0 to 1; those of forgotten items: ideal as the retrained model's; others: higher
Differs: nothing; K is 20, and the variants @5, @10, @50 have others; `whole ideal` is the NDCG of codes that do not truncate the ideal
Status: faithful

The relevant items of a user are those of the set; scores of `test` are those of a set of this name, else of the unseen rows. Candidates are
all items but the user's other training interactions. A user's values are, with r the places of the relevant items from 1,

- recall@K = relevant items among the first K / relevant items. (CURE4Rec's code calls it HR; a hit rate asks for any hit.)
- precision@K = relevant items among the first K / K.
- NDCG@K = sum of 1/log2(r + 1) over r <= K, divided by the same sum over places 1 to min(K, relevant items). A common error sums the ideal
  over all relevant items, so that a user with more than K of them cannot reach 1 (variant `whole ideal`).
- MAP@K = sum over r <= K of the share of relevant items among the first r, divided by min(K, relevant items). Common errors divide by K, so
  that no user with fewer relevant items can reach 1, or by the number of hits, which ignores what is missed.

Scores are means over users. An item that stands in a set twice counts once; a user without rows in the set does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from expunge.evaluation.measure import Broken, Evidence, Items, Measure, Missing, ScoreSpec, attempt, averaged
from expunge.evaluation.observation import SetObservation

READS = frozenset({"ranks"})  # what must have been observed
SETS = {
    "forget": ("forget",),
    "retain": ("retain",),
    "test": ("test", "holdout"),
}  # sets by the first word of their scores; the first counts
WHOSE = {"forget": "items to be forgotten", "retain": "items of training interactions to keep", "test": "unseen items of each user"}
MEASURED = {
    "recall": "share of the {} among the first K recommended ones",
    "ndcg": "how early the {} are recommended; 1: all before any other",
    "precision": "share of the first K recommended items that are {}",
    "map": "precision at the places of the {}, averaged",
}
CUTS = {"@20": 20, "@10": 10, "@5": 5, "@50": 50}
WHOLE = "whole ideal"
MARGIN = 0.1  # of means from 0 to 1, as of other scores
CHECKED = ("recall", "ndcg")
SCORES = {
    f"{name}_{metric}": ScoreSpec(
        "knowledge" if name == "forget" else "utility",
        "retrained" if name == "forget" else "higher",
        meaning.format(WHOSE[name]),
        shows=name == "forget",
        margin=MARGIN if name == "forget" and metric in CHECKED else None,
        one="user",
    )
    for name in SETS
    for metric, meaning in MEASURED.items()
}
NDCG_VARIANTS = (*CUTS, *(f"{cut}, {WHOLE}" for cut in CUTS))
VARIANTS: Mapping[str, tuple[str, ...]] = {score: NDCG_VARIANTS if score.endswith("ndcg") else tuple(CUTS) for score in SCORES}


def recall_at(k: int, places: Items) -> float:
    """Share of the relevant items among the first k. places: of the relevant items, from 0, each once (relevant,)."""
    return float((places < k).mean())


def precision_at(k: int, places: Items) -> float:
    """Share of the first k items that are relevant. places: as in `recall_at`."""
    return float((places < k).sum() / k)


def ndcg_at(k: int, places: Items, whole: bool = False) -> float:
    """Normalized discounted cumulative gain of relevance 0 or 1. places: as in `recall_at`. whole: the ideal is not truncated at k."""
    ideal = len(places) if whole else min(k, len(places))
    gains = 1 / np.log2(places[places < k] + 2)
    return float(gains.sum() / (1 / np.log2(np.arange(ideal) + 2)).sum())


def average_precision_at(k: int, places: Items) -> float:
    """Average precision, of which MAP is the mean over users. places: as in `recall_at`."""
    hits = np.sort(places[places < k])
    return float((np.arange(1, len(hits) + 1) / (hits + 1)).sum() / min(k, len(places)))


def places_by_user(observation: SetObservation) -> list[Items]:
    """The places of each user's items, each item once, in the order of the users' first rows.

    Raises:
        Missing: where no ranks were observed.
        Broken: where scores of the model were no numbers.
    """
    if observation.ranks is None:
        raise Missing("no ranks were observed")
    if (observation.ranks < 0).any():
        raise Broken("scores of items are not numbers")
    by_user: dict[str, dict[str, int]] = {}
    for user, item, place in zip(observation.question, observation.answer, observation.ranks.tolist(), strict=True):
        by_user.setdefault(user, {})[item] = place
    return [np.array(list(places.values()), np.float64) for places in by_user.values()]


def per_user(metric: str, variant: str, observation: SetObservation) -> Items:
    """The value of a metric for each user of a set, (users,). variant: of `VARIANTS`."""
    cut, _, style = variant.partition(", ")
    functions = {
        "recall": recall_at,
        "precision": precision_at,
        "ndcg": partial(ndcg_at, whole=style == WHOLE),
        "map": average_precision_at,
    }
    return np.array([functions[metric](CUTS[cut], places) for places in places_by_user(observation)])


def cut_of(evidence: Evidence) -> int:
    """K of the recall of forgotten items."""
    return CUTS[evidence.variant("forget_recall", VARIANTS["forget_recall"])]


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""

    def measure(name: str, metric: str) -> Measure:
        variant = evidence.variant(f"{name}_{metric}", VARIANTS[f"{name}_{metric}"])
        of_set = next((one for one in SETS[name] if one in evidence.model.sets), SETS[name][-1])
        return averaged(evidence.items(of_set, partial(per_user, metric, variant)), variant)

    return {f"{name}_{metric}": attempt(measure, name, metric) for name in SETS for metric in MEASURED}

"""Classifiers: is what was to be forgotten classified as by a model that never saw it, and everything else as well as before?
Accuracies on the forgotten, the retained and unseen items; how far all of them are from the retrained model's; how uncertain the model is.

Source: Golatkar et al. 2020 (arXiv 1911.04933); Fan et al. 2024, SalUn (arXiv 2310.12508) for the average gap; Chundawat et al. 2023 (arXiv
    2205.08096) for ZRF
Scores: forget_accuracy, retain_accuracy, test_accuracy, test_forget_accuracy, model_utility, average_gap, forget_confidence,
    forget_entropy, zrf
Needs: forget, retain, holdout or test (unseen items); retrained (for average_gap), random (for zrf)
Range and ideal: accuracies 0 to 1; those of forgotten items and classes as the retrained model's; average_gap ideal 0; zrf to 1, high where
    the model is as unsure of forgotten items as random weights are
Differs: unseen items of classes that are forgotten altogether count in test_forget_accuracy, not in test_accuracy; model_utility is
    test_accuracy, or retain_accuracy without unseen items of a class that remains; average_gap leaves membership out, which has scores of
    its own; zrf is the textbook's by default, while the released codes (variant `released`) take the divergences from the mixture to the
    models and average them over classes, too, so that their values lie near 1
Status: faithful
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, rel_entr

from expunge.evaluation.measure import Broken, Evidence, Items, Measure, Missing, PerItem, ScoreSpec, attempt, averaged
from expunge.evaluation.observation import Observation, SetObservation

READS = frozenset({"distributions"})  # what must have been observed
MARGIN = 0.1  # two retrained models with different seeds differ by less (studies/calibrate_verdict.py)
SCORES = {
    "forget_accuracy": ScoreSpec(
        "knowledge", "retrained", "share of the forgotten items that are classified right", shows=True, margin=MARGIN
    ),
    "retain_accuracy": ScoreSpec("utility", "higher", "share of the items to keep that are classified right"),
    "test_accuracy": ScoreSpec("utility", "higher", "share of unseen items of the other classes that are classified right"),
    "test_forget_accuracy": ScoreSpec(
        "knowledge",
        "retrained",
        "share of unseen items of forgotten classes that are classified right",
        margin=MARGIN,
        decides=False,  # there are often few
    ),
    "model_utility": ScoreSpec("utility", "higher", "share of unseen items of the classes that remain that are classified right"),
    "average_gap": ScoreSpec("utility", "lower", "how far the accuracies are from the retrained model's, on average", ideal=0.0),
    "forget_confidence": ScoreSpec(
        "knowledge", "retrained", "probability of the true class of forgotten items, on average", shows=True, margin=MARGIN
    ),
    "forget_entropy": ScoreSpec("knowledge", "retrained", "how undecided the model is about forgotten items; 0: certain"),
    "zrf": ScoreSpec("knowledge", "retrained", "how much answers about forgotten items resemble those of random weights; 1: the same"),
}


VARIANTS = {"zrf": ("textbook", "released")}


def log_probabilities(observation: SetObservation) -> Items:
    """Log-probabilities in nats, (items, classes).

    Raises:
        Missing: where no distributions were observed.
        Broken: where they are not finite.
    """
    if observation.log_probs is None or observation.label is None:
        raise Missing("no distributions over classes were observed")
    if not np.isfinite(observation.log_probs).any(axis=1).all():
        raise Broken("log-probabilities are not finite")
    return observation.log_probs.astype(np.float64)


def hits(observation: SetObservation) -> Items:
    """1 where the most probable class is the true one, (items,)."""
    return np.asarray(log_probabilities(observation).argmax(1) == observation.label, np.float64)


def confidence(observation: SetObservation) -> Items:
    """Probability of the true class, (items,)."""
    return np.asarray(np.exp(log_probabilities(observation)[np.arange(len(observation)), observation.label]))


def entropy(observation: SetObservation) -> Items:
    """Entropy of the distribution over classes, (items,), in nats."""
    return np.asarray(entr(np.exp(log_probabilities(observation))).sum(1))


def jensen_shannon(a: Items, b: Items) -> Items:
    """Jensen-Shannon divergence in nats, from 0 to log 2, of distributions given as log-probabilities (items, classes): (items,)."""
    p, q = np.exp(a), np.exp(b)
    return np.asarray((rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum(1) / 2)


def swapped_jensen_shannon(a: Items, b: Items) -> Items:
    """What the released codes of ZRF take for it: the mean of KL(m || p) and KL(m || q), m = (p + q) / 2, over the number of classes.

    Args:
        a: log-probabilities, (items, classes), of distributions p.
        b: those of distributions q.

    Returns:
        Values in nats, (items,).
    """
    mixture = np.logaddexp(a, b) - np.log(2)
    with np.errstate(invalid="ignore"):  # a class that is impossible in all three adds nothing
        terms = np.where(np.isneginf(mixture), 0, np.exp(mixture) * (mixture - (a + b) / 2))
    return np.asarray(terms.mean(1))


def gone(observed: Observation) -> NDArray[np.int64]:
    """Classes of forgotten items without any retained item; empty where items of each class remain."""
    forget, retain = (observed.sets.get(n) for n in ("forget", "retain"))
    if forget is None or forget.label is None or retain is None or retain.label is None:
        return np.array([], np.int64)
    return np.setdiff1d(forget.label, retain.label)


def unseen_of(observed: Observation) -> str:
    """The set that accuracy is measured on: `test` where the audit has one beside the non-members of the attacks, else `holdout`."""
    return "test" if "test" in observed.sets else "holdout"


def among(classes: NDArray[np.int64], of: PerItem, inside: bool) -> PerItem:
    """Limit a statistic to items whose class is (or is not) in `classes`; nan for the others.

    Raises:
        Missing: from the result, where no item qualifies.
    """

    def chosen_values(observation: SetObservation) -> Items:
        values = of(observation)
        chosen = np.isin(observation.label, classes) == inside
        if not chosen.any():
            raise Missing(f"no item is of a class that {'is forgotten altogether' if inside else 'remains'}")
        return np.asarray(np.where(chosen.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan))

    return chosen_values


def mean(values: Items) -> float:
    return float(values.mean())


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""
    classes, unseen = gone(evidence.model), unseen_of(evidence.model)
    remaining_hits, forgotten_hits = among(classes, hits, inside=False), among(classes, hits, inside=True)

    def share(name: str, of: PerItem, variant: str = "") -> Measure:
        return averaged(evidence.items(name, of), variant)

    def utility() -> Measure:
        observation = evidence.model.sets.get(unseen)
        set_name = "retain" if observation is None or np.isin(observation.label, classes).all() else unseen
        return share(set_name, remaining_hits, f"accuracy on {'retained' if set_name == 'retain' else 'unseen'} items")

    makers: dict[str, Callable[[], Measure]] = {
        "forget_accuracy": partial(share, "forget", hits),
        "retain_accuracy": partial(share, "retain", hits),
        "test_accuracy": partial(share, unseen, remaining_hits, "classes that remain"),
        "test_forget_accuracy": partial(share, unseen, forgotten_hits, "classes that are forgotten altogether"),
        "model_utility": utility,
        "average_gap": partial(_gap, evidence, remaining_hits),
        "forget_confidence": partial(share, "forget", confidence),
        "forget_entropy": lambda: Measure((evidence.items("forget", entropy),), mean, variant="nats"),
        "zrf": partial(_zrf, evidence),
    }
    return {name: attempt(make) for name, make in makers.items()}


def _gap(evidence: Evidence, remaining_hits: PerItem) -> Measure:
    """Mean distance of the accuracies from the retrained model's; the bootstrap draws the same items of both together."""
    sources = (("forget", hits), ("retain", hits), (unseen_of(evidence.model), remaining_hits))
    pairs = tuple(evidence.pairs(name, of) for name, of in sources)

    def stat(*both: Items) -> float:
        return float(np.mean([abs(x[:, 0].mean() - x[:, 1].mean()) for x in both]))

    return Measure(pairs, stat, variant="forget, retain and test accuracy")


def _zrf(evidence: Evidence) -> Measure:
    both = evidence.pairs("forget", log_probabilities, "random")
    if evidence.variant("zrf", VARIANTS["zrf"]) == "released":
        return Measure(
            (1 - swapped_jensen_shannon(both[:, 0], both[:, 1]),), mean, variant="released: arguments swapped, mean over classes"
        )
    return Measure((1 - jensen_shannon(both[:, 0], both[:, 1]),), mean, variant="1 - Jensen-Shannon divergence, in nats")

"""Membership inference on classifiers, from one model's outputs: do forgotten items look like training items, or like unseen ones?
Four attacks that papers report under one name, each under its own here, since they are read in opposite directions.

Threat model: the attacker reads distributions over classes and holds retained and unseen items of known membership (mia_efficacy,
    mia_entropy, mia_threshold) or unseen items alone (mia_loss, mia_cv); nothing is changed. Population attacks overstate privacy.
Source: Jia et al. 2023 (arXiv 2304.04934) for mia_efficacy; Foster et al. 2024 (arXiv 2308.07707) for mia_entropy, Chundawat et al. 2023
    (arXiv 2205.08096) for its variant `svm`; Kurmanji et al. 2023, SCRUB (arXiv 2302.09880) for mia_cv; Song and Mittal 2021 (arXiv
    2003.10595) for mia_threshold; Choi and Na 2023 (arXiv 2311.02240) for nomus
Scores: mia_loss, mia_efficacy, mia_entropy, mia_cv, mia_threshold, nomus
Needs: forget, holdout; retain (for mia_efficacy, mia_entropy, mia_threshold)
Range and ideal: mia_loss AUC, about 0.5 where holdout is drawn like forget; mia_efficacy share of forgotten items called unseen;
    mia_entropy and mia_threshold share called members; mia_cv accuracy of telling forgotten from unseen, chance 0.5; all as the retrained
    model's; nomus, half test accuracy and half how near mia_cv is to chance, 0 to 1
Differs: retained items are drawn with a seed, not the first ones, which class-sorted data bias; forgotten items are compared with unseen
    ones of their own classes. mia_entropy is logistic regression with both kinds weighing the same, as in the code of SSD; the code of
    Chundawat et al. has a kernel machine (C = 3, RBF; variant `svm`), which gives other numbers
Status: faithful
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.measure import Evidence, Items, Measure, Missing, PerItem, ScoreSpec, attempt
from expunge.evaluation.metrics.classification import among, confidence, entropy, gone, hits, log_probabilities, mean, unseen_of
from expunge.evaluation.observation import SetObservation
from expunge.functional.unlearning_scores import nomus

READS = frozenset({"distributions"})  # what must have been observed
SCORES = {
    "mia_loss": ScoreSpec("membership", "retrained", "how well losses tell forgotten items from unseen ones; 0.5: not at all", margin=0.15),
    "mia_efficacy": ScoreSpec(
        "membership", "retrained", "share of the forgotten items that an attacker who sees confidences takes for unseen"
    ),
    "mia_entropy": ScoreSpec(
        "membership", "retrained", "share of the forgotten items that an attacker who sees entropies takes for training items"
    ),
    "mia_cv": ScoreSpec(
        "membership", "retrained", "how often an attacker who learns from losses tells forgotten items from unseen ones; 0.5: by chance"
    ),
    "mia_threshold": ScoreSpec(
        "membership", "retrained", "share of the forgotten items that an attacker with one threshold a class takes for training items"
    ),
    "nomus": ScoreSpec(
        "membership", "higher", "half accuracy on unseen items, half how near telling forgotten from unseen items is to chance; 1: best"
    ),
}
VARIANTS = {"mia_entropy": ("logistic", "svm")}
LARGEST = 10_000  # items of a kernel machine, whose cost is quadratic
SPLITS = 10  # of the cross-validation


def loss(observation: SetObservation) -> Items:
    """Minus the log-probability of the true class, (items,), in nats."""
    return np.asarray(-log_probabilities(observation)[np.arange(len(observation)), observation.label])


def modified_entropy(observation: SetObservation) -> Items:
    """Entropy that knows the true class, (items,): 0 where the model is certain of it, large where it is certain of another class."""
    p = np.exp(log_probabilities(observation))
    true_class = np.arange(len(observation)), observation.label
    true_probability = p[true_class]
    rest = -p * np.log(np.clip(1 - p, 1e-30, None))
    rest[true_class] = 0
    return np.asarray(-(1 - true_probability) * np.log(np.clip(true_probability, 1e-30, None)) + rest.sum(1))


def efficacy(members: Items, others: Items, queries: Items, seed: int = 0) -> Items:
    """Whether a kernel machine that tells members from others by their confidence calls an item unseen, (queries,) of 0 and 1."""
    rng = np.random.default_rng(seed)
    size = min(len(members), len(others), LARGEST)
    chosen = [rng.permutation(x)[:size] for x in (members, others)]
    return np.asarray(_kernel_machine(*chosen).predict(queries[:, None]) == 0, np.float64)


def by_entropy(members: Items, others: Items, queries: Items) -> Items:
    """Whether logistic regression on entropies, both kinds weighing the same, calls an item a member, (queries,) of 0 and 1."""
    from sklearn.linear_model import LogisticRegression

    known, kind = np.concatenate([members, others])[:, None], np.repeat([1, 0], [len(members), len(others)])
    return np.asarray(LogisticRegression(class_weight="balanced").fit(known, kind).predict(queries[:, None]), np.float64)


def by_entropy_kernel(members: Items, others: Items, queries: Items, seed: int = 0) -> Items:
    """Whether a kernel machine on entropies of all items calls an item a member, (queries,) of 0 and 1."""
    rng = np.random.default_rng(seed)
    known = [x if len(x) <= LARGEST else rng.permutation(x)[:LARGEST] for x in (members, others)]
    return np.asarray(_kernel_machine(*known).predict(queries[:, None]), np.float64)


def _kernel_machine(members: Items, others: Items) -> Any:
    """A support-vector machine with the settings of the published attacks, fitted on one number an item: 1 for members, else 0."""
    from sklearn.svm import SVC

    return SVC(C=3, gamma="auto", kernel="rbf").fit(
        np.concatenate([members, others])[:, None], np.repeat([1, 0], [len(members), len(others)])
    )


def cross_validated(forgotten: Items, unseen: Items, splits: int = SPLITS, seed: int = 0) -> Items:
    """Accuracies of logistic regression on losses, both kinds as many, over stratified random splits with a tenth held out, (splits,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit

    rng = np.random.default_rng(seed)
    size = min(len(forgotten), len(unseen))
    if size < SPLITS:
        raise Missing(f"cross-validation needs {SPLITS} items of each kind, and there are {size}")
    values = np.concatenate([rng.permutation(x)[:size] for x in (forgotten, unseen)])[:, None].clip(-100, 100)
    kind = np.repeat([1, 0], size)
    ways = StratifiedShuffleSplit(n_splits=splits, random_state=seed).split(values, kind)
    return np.array([LogisticRegression().fit(values[a], kind[a]).score(values[b], kind[b]) for a, b in ways])


def above_threshold(members: Items, others: Items, queries: Items) -> Items:
    """Whether items stand at or above the threshold that tells members from others best (balanced accuracy), (queries,) of 0 and 1."""
    thresholds = np.unique(np.concatenate([members, others]))
    members_below, others_below = (
        np.searchsorted(np.sort(x), thresholds) / len(x) for x in (members, others)
    )  # shares below each threshold
    return np.asarray(queries >= thresholds[(others_below - members_below).argmax()], np.float64)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""
    accuracies = cache(lambda: cross_validated(*_unseen(evidence, loss)))
    makers: dict[str, Callable[[], Measure]] = {
        "mia_loss": partial(_loss, evidence),
        "mia_efficacy": partial(_shares, evidence, confidence, efficacy, "share called unseen; kernel machine on confidence"),
        "mia_entropy": partial(_entropy, evidence),
        "mia_cv": partial(_cv, accuracies),
        "mia_threshold": partial(_by_class, evidence),
        "nomus": partial(_nomus, evidence, accuracies),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that do not converge on constant outputs
        return {name: attempt(make) for name, make in makers.items()}


def _shares(evidence: Evidence, of: PerItem, attack: Callable[..., Items], variant: str) -> Measure:
    members, others, queries = (evidence.items(n, of) for n in ("retain", "holdout", "forget"))
    return Measure((attack(members, others, queries),), mean, variant=variant)


def _entropy(evidence: Evidence) -> Measure:
    if evidence.variant("mia_entropy", VARIANTS["mia_entropy"]) == "svm":
        return _shares(evidence, entropy, by_entropy_kernel, "share called members; kernel machine on entropy")
    return _shares(evidence, entropy, by_entropy, "share called members; logistic regression on entropy")


def _unseen(evidence: Evidence, of: PerItem) -> tuple[Items, Items]:
    """Statistics of forgotten items, and of unseen items of their classes."""
    classes = evidence.items("forget", lambda observation: np.asarray(observation.label, np.float64))

    def of_same_class(observation: SetObservation) -> Items:
        if not (same_class := np.isin(observation.label, classes)).any():
            raise Missing("no item is of a class of which items are forgotten")
        return np.asarray(np.where(same_class, of(observation), np.nan))

    return evidence.items("forget", of), evidence.items("holdout", of_same_class)


def _loss(evidence: Evidence) -> Measure:
    return Measure(_unseen(evidence, loss), auc, "loss; unseen items of the same classes", kernel=precedes)


def _cv(accuracies: Callable[[], Items]) -> Measure:
    return Measure((accuracies(),), mean, variant=f"loss; {SPLITS} splits; unseen items of the same classes")


def _nomus(evidence: Evidence, accuracies: Callable[[], Items]) -> Measure:
    """Half utility, half how near the attack is to chance; the bootstrap draws splits and items separately."""
    unseen = unseen_of(evidence.model)
    arrays = evidence.items(unseen, among(gone(evidence.model), hits, inside=False)), accuracies()
    return Measure(arrays, lambda hit, attack: nomus(mean(hit), mean(attack)), variant="test accuracy and mia_cv")


def _by_class(evidence: Evidence) -> Measure:
    """One threshold on modified entropy per class; classes without retained or unseen items use the threshold of all items."""

    def both(observation: SetObservation) -> Items:
        return np.stack([-modified_entropy(observation), np.asarray(observation.label, np.float64)], 1)

    members, others, queries = (evidence.items(n, both) for n in ("retain", "holdout", "forget"))
    accused = np.empty(len(queries))
    for c in np.unique(queries[:, 1]):
        m, o = (x[x[:, 1] == c, 0] for x in (members, others))
        m, o = (members[:, 0], others[:, 0]) if not len(m) or not len(o) else (m, o)
        of_class = queries[:, 1] == c
        accused[of_class] = above_threshold(m, o, queries[of_class, 0])
    return Measure((accused,), mean, variant="share called members; threshold on modified entropy, one a class")

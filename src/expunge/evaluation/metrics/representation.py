"""Representations: was anything forgotten below the last layer? A head that no longer names a class may stand on features that know it.
Features of the forgotten items are compared with the retrained and the original model's (CKA) and asked for their class by neighbors.

Source: Kim et al. 2025 (arXiv 2503.06991); Kornblith et al. 2019 (arXiv 1905.00414) for linear CKA
Scores: cka_retrained, cka_original, knn_forget, knn_retain, agl, agr, h_lr
Needs: forget, retain, holdout or test (unseen items); features; retrained (for cka_retrained, agl, agr, h_lr), original (for cka_original)
Range and ideal: 0 to 1; cka_retrained, agl, agr and h_lr ideal 1 (as the retrained model); cka_original and k-NN accuracies as the
    retrained model's
Differs: CKA over all forgotten items at once, not averaged over batches; neighbors are searched among the forgotten and the retained items
    that the audit looks at, both together, since the items of one forgotten class alone allow only one answer; the products agl and agr
    are reconstructed from their description, so their parts are given beside them
Status: faithful
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from expunge.evaluation.measure import Beside, Broken, Evidence, Items, Measure, Missing, PerItem, ScoreSpec, attempt, averaged
from expunge.evaluation.metrics.classification import among, gone, hits, unseen_of
from expunge.evaluation.observation import HEAD, SetObservation

READS = frozenset({"distributions", "features"})  # what must have been observed
SCORES = {
    "cka_retrained": ScoreSpec(
        "features", "higher", "how alike the features of forgotten items are to the retrained model's; 1: the same", ideal=1.0
    ),
    "cka_original": ScoreSpec(
        "features",
        "retrained",
        "how alike the features of forgotten items are to the original model's; 1: nothing has moved below the head",
        margin=0.2,
        decides=False,
    ),
    "knn_forget": ScoreSpec(
        "features",
        "retrained",
        "share of unseen items whose forgotten class the nearest neighbors among the features still name",
        margin=0.2,
        decides=False,
    ),
    "knn_retain": ScoreSpec("features", "higher", "share of unseen items whose class the nearest neighbors among the features name"),
    "agl": ScoreSpec(
        "utility", "higher", "agreement with the retrained model in what is said: the product of 1 minus each gap in accuracy", ideal=1.0
    ),
    "agr": ScoreSpec(
        "features",
        "higher",
        "agreement with the retrained model below the head: similarity of features times agreement of neighbors",
        ideal=1.0,
    ),
    "h_lr": ScoreSpec(
        "features",
        "higher",
        "agreement with the retrained model in what is said and below the head: the harmonic mean of agl and agr",
        ideal=1.0,
    ),
}
NEIGHBORS = 5
ROUNDING = 1e-6  # of the size of features: what varies less does not vary


def features(observation: SetObservation) -> Items:
    """The inputs of the head, (items, width).

    Raises:
        Missing: where no features were observed.
        Broken: where they are not finite.
    """
    values = observation.features.get(HEAD)
    if values is None:
        raise Missing("no features were observed")
    if not np.isfinite(values).all():
        raise Broken("features are not finite")
    return np.asarray(values, np.float64)


def linear_cka(a: Items, b: Items) -> float:
    """Similarity of two representations of the same items, (items, width) each; 0 to 1, and 1 for any rotation, scaling or shift.

    Independent features of n items have about width / (n + width), not 0. nan where one of them does not vary.
    """
    a, b = _centered(a), _centered(b)
    if len(a) < min(a.shape[1], b.shape[1]):  # the Gram form is the same number, and smaller
        left, right = a @ a.T, b @ b.T
        cross, scale = float((left * right).sum()), float(np.linalg.norm(left) * np.linalg.norm(right))
    else:
        cross, scale = float(np.linalg.norm(b.T @ a) ** 2), float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return cross / scale if scale > 0 else float("nan")


def _centered(x: Items) -> Items:
    moved = x - x.mean(0)
    return np.asarray(moved if np.linalg.norm(moved) > ROUNDING * np.linalg.norm(x) else np.zeros_like(x))


def nearest_label(known: Items, labels: Items, queries: Items, k: int = NEIGHBORS) -> Items:
    """The class that most of the k nearest known items (by cosine) have, (queries,); the smallest of equals. known (n, width)."""

    def unit(x: Items) -> Items:
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))

    near = np.argsort(-unit(queries) @ unit(known).T, axis=1, kind="stable")[:, :k]
    votes = np.stack([np.bincount(row, minlength=int(labels.max()) + 1) for row in labels[near].astype(int)])
    return np.asarray(votes.argmax(1))


def neighbors(evidence: Evidence, inside: bool) -> PerItem:
    """Whether the nearest forgotten and retained items of the same model name the class of unseen items; (unseen items,).

    inside: read items of the classes forgotten altogether, else items of the other classes; the rest is nan.
    """

    def named_right(observation: SetObservation) -> Items:
        observed = next(o for o in (evidence.model, evidence.retrained) if o and o.sets.get(unseen_of(o)) is observation)
        if not {"forget", "retain"} <= observed.sets.keys():
            raise Missing("neighbors are looked for among forgotten and retained items: give both sets")
        sets = [observed.sets[n] for n in ("forget", "retain")]
        known, labels = (np.concatenate(x) for x in ([features(s) for s in sets], [s.label for s in sets]))  # type: ignore[misc]
        order = np.random.default_rng(0).permutation(len(labels))  # where features are all alike, the first known ones are the nearest
        return np.asarray(nearest_label(known[order], labels[order], features(observation)) == observation.label, np.float64)

    return among(gone(evidence.model), named_right, inside)


def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
    """All scores of the card."""
    makers: dict[str, Callable[[], Measure]] = {
        "cka_retrained": partial(_cka, evidence, "retrained"),
        "cka_original": partial(_cka, evidence, "original"),
        "knn_forget": partial(_knn, evidence, True),
        "knn_retain": partial(_knn, evidence, False),
        "agl": partial(_unified, evidence, "agl"),
        "agr": partial(_unified, evidence, "agr"),
        "h_lr": partial(_unified, evidence, "h_lr"),
    }
    return {name: attempt(make) for name, make in makers.items()}


def _side_by_side(evidence: Evidence, beside: Beside) -> tuple[Items, Callable[[Items], float]]:
    """Features of the forgotten items in both models, (items, width + other width), and the similarity of the two sides."""
    a, b = evidence.both("forget", features, beside)
    if np.isnan(linear_cka(a, b)):
        raise Missing("forget: the features of the items do not vary, so there is nothing to compare")
    return np.hstack([a, b]), lambda x: linear_cka(x[:, : a.shape[1]], x[:, a.shape[1] :])


def _cka(evidence: Evidence, beside: Beside) -> Measure:
    both, similarity = _side_by_side(evidence, beside)
    return Measure((both,), similarity, variant="linear, all forgotten items")


def _knn(evidence: Evidence, inside: bool) -> Measure:
    values = evidence.items(unseen_of(evidence.model), neighbors(evidence, inside))
    variant = f"{NEIGHBORS} neighbors by cosine, unseen items of {'forgotten classes' if inside else 'classes that remain'}"
    return averaged(values, variant)


def _unified(evidence: Evidence, name: str) -> Measure:
    """Agreement with the retrained model in accuracies (agl), in representations (agr), and the harmonic mean of both (h_lr)."""
    classes, unseen = gone(evidence.model), unseen_of(evidence.model)
    insides = (False, True) if len(classes) else (False,)
    logits = [evidence.pairs(n, hits) for n in ("forget", "retain")]
    logits += [evidence.pairs(unseen, among(classes, hits, inside)) for inside in insides]

    def agree(both: Items) -> float:
        return 1 - abs(float(both[:, 0].mean() - both[:, 1].mean()))

    def agl(*drawn: Items) -> float:
        return float(np.prod([agree(x) for x in drawn]))

    if name == "agl":
        return Measure(tuple(logits), agl)
    probes = [evidence.pairs(unseen, neighbors(evidence, inside)) for inside in insides]
    both, similarity = _side_by_side(evidence, "retrained")

    def agr(*drawn: Items) -> float:
        return float(np.mean([agree(x) for x in drawn[:-1]])) * similarity(drawn[-1])

    def h_lr(*drawn: Items) -> float:
        a, b = agl(*drawn[: len(logits)]), agr(*drawn[len(logits) :])
        return 2 * a * b / (a + b) if a + b > 0 else 0.0

    if name == "agr":
        return Measure((*probes, both), agr)
    return Measure((*logits, *probes, both), h_lr)

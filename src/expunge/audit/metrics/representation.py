"""Representations: was anything forgotten below the last layer? A head that no longer names a class may stand on features that know it.
Features of the forgotten items are compared with the retrained and the original model's (CKA) and asked for their class by neighbours.

Source: Kim et al. 2025 (arXiv 2503.06991); Kornblith et al. 2019 (arXiv 1905.00414) for linear CKA
Scores: cka_retrained, cka_original, knn_forget, knn_retain, agl, agr, h_lr
Needs: forget, retain, holdout; features; retrained (for cka_retrained, agl, agr, h_lr), original (for cka_original)
Range and ideal: 0 to 1; cka_retrained, agl, agr and h_lr ideal 1 (as the retrained model); cka_original and k-NN accuracies as the
    retrained model's
Differs: CKA over all forgotten items at once, not averaged over batches; neighbours are found among the items that the audit looks at;
    the products agl and agr are reconstructed from their description, so their parts are given beside them
Status: faithful
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from expunge.audit.observed import Observed, SetSeen
from expunge.audit.score import Broken, Evidence, Items, Measure, Missing, attempt

from .classification import among, gone, hits, mean

MODALITIES = ("image",)  # whose observations it reads
NEIGHBOURS = 5
HEAD = "head"  # the features that the last linear layer reads


def features(seen: SetSeen, layer: str = HEAD) -> Items:
    """(items, width). Errors: Missing, Broken."""
    found = seen.features.get(layer)
    if found is None:
        raise Missing("no features were observed")
    if not np.isfinite(found).all():
        raise Broken("features are not finite")
    return np.asarray(found, np.float64)


def linear_cka(a: Items, b: Items) -> float:
    """Similarity of two representations of the same items, (items, width) each; 0 to 1, and 1 for any rotation, scaling or shift.

    Independent features of n items have about width / (n + width), not 0. nan where one of them does not vary.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    if len(a) < min(a.shape[1], b.shape[1]):  # the Gram form is the same number, and smaller
        left, right = a @ a.T, b @ b.T
        cross, scale = float((left * right).sum()), float(np.linalg.norm(left) * np.linalg.norm(right))
    else:
        cross, scale = float(np.linalg.norm(b.T @ a) ** 2), float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return cross / scale if scale > 0 else float("nan")


def nearest_label(known: Items, labels: Items, asked: Items, k: int = NEIGHBOURS) -> Items:
    """The class that most of the k nearest known items (by cosine) have, (asked,); the smallest of equals. known (n, width)."""

    def unit(x: Items) -> Items:
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))

    near = np.argsort(-unit(asked) @ unit(known).T, axis=1, kind="stable")[:, :k]
    votes = np.stack([np.bincount(row, minlength=int(labels.max()) + 1) for row in labels[near].astype(int)])
    return np.asarray(votes.argmax(1))


def neighbours(observed: Observed, inside: bool) -> Items:
    """Whether unseen items, of the classes forgotten altogether (`inside`) or of the others, are found by their neighbours' classes; nan
    for the rest, (holdout items,). Errors: Missing.
    """
    forget, retain, holdout = (observed.sets.get(n) for n in ("forget", "retain", "holdout"))
    if forget is None or retain is None or holdout is None:
        raise Missing("neighbours are looked for among forgotten and retained items, for unseen ones: give all three sets")
    known = np.concatenate([features(forget), features(retain)])
    labels = np.concatenate([forget.label, retain.label])  # type: ignore[list-item]

    def found(seen: SetSeen) -> Items:
        return np.asarray(nearest_label(known, labels, features(seen)) == seen.label, np.float64)

    return among(gone(observed), found, inside)(holdout)


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


def _both(evidence: Evidence, beside: str) -> tuple[Items, int]:
    """Features of the forgotten items in both models side by side, (items, width + other width), and the first width."""
    mine, theirs = evidence.model, evidence.retrained if beside == "retrained" else evidence.original
    if theirs is None:
        raise Missing(f"no {beside} model was given")
    if mine.sets["forget"].ids != theirs.sets["forget"].ids:
        raise Missing(f"forget: the model and the {beside} model answered different items")
    a, b = features(mine.sets["forget"]), features(theirs.sets["forget"])
    return np.hstack([a, b]), a.shape[1]


def _cka(evidence: Evidence, beside: str) -> Measure:
    both, width = _both(evidence, beside)
    ideal, direction = (1.0, "higher") if beside == "retrained" else (None, "retrained")
    return Measure((both,), lambda x: linear_cka(x[:, :width], x[:, width:]), direction, ideal, "linear, all forgotten items")  # type: ignore[arg-type]


def _knn(evidence: Evidence, inside: bool) -> Measure:
    found = neighbours(evidence.model, inside)
    variant = f"{NEIGHBOURS} neighbours by cosine, unseen items of {'forgotten classes' if inside else 'classes that remain'}"
    return Measure((found[~np.isnan(found)],), mean, "retrained" if inside else "higher", variant=variant)


def _unified(evidence: Evidence, which: str) -> Measure:
    """Agreement with the retrained model in accuracies (agl), in representations (agr), and the harmonic mean of both (h_lr)."""
    classes = gone(evidence.model)
    asked = [("forget", hits), ("retain", hits), ("holdout", among(classes, hits, inside=False))]
    if len(classes) and evidence.retrained:
        asked.append(("holdout", among(classes, hits, inside=True)))
    logits = [evidence.pairs(name, of) for name, of in asked]
    probes = [_probes(evidence, inside) for inside in ((False, True) if len(classes) else (False,))]
    both, width = _both(evidence, "retrained")

    def stat(*drawn: Items) -> float:
        gaps = [1 - abs(float(x[:, 0].mean() - x[:, 1].mean())) for x in drawn[:-1]]
        agl, knn = float(np.prod(gaps[: len(logits)])), float(np.mean(gaps[len(logits) :]))
        agr = knn * linear_cka(drawn[-1][:, :width], drawn[-1][:, width:])
        return {"agl": agl, "agr": agr, "h_lr": 2 * agl * agr / (agl + agr) if agl + agr > 0 else 0.0}[which]

    return Measure((*logits, *probes, both), stat, "higher", ideal=1.0)


def _probes(evidence: Evidence, inside: bool) -> Items:
    """Hits of neighbours in both models, (items, 2)."""
    if evidence.retrained is None:
        raise Missing("no retrained model was given")
    pair = np.stack([neighbours(evidence.model, inside), neighbours(evidence.retrained, inside)], 1)
    return np.asarray(pair[~np.isnan(pair).any(1)])

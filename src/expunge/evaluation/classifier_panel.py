"""Report panels of a classifier: counts, curves, positions in a plane and a few pictures, from observations."""

from __future__ import annotations

from typing import Any

import numpy as np

from expunge.evaluation.attacks.mia_classifier import loss
from expunge.evaluation.measure import Beside, Broken, Evidence, Items, Missing, PerItem, attempt
from expunge.evaluation.metrics.classification import confidence, entropy, log_probabilities
from expunge.evaluation.metrics.representation import linear_cka
from expunge.evaluation.observation import HEAD, SetObservation
from expunge.report.panels.image import Classes, LayerSimilarity

BINS = 20  # of a histogram
POINTS = 100  # of a ROC curve, about
SPOTS = {"forget": 100, "retain": 200}  # items of each set that are placed in the plane
NEAR = 10.0  # perplexity: about as many items as stand together
STEPS = 500  # of t-SNE, which has converged by then


def classes(evidence: Evidence) -> Classes | None:
    """The panel of a classifier's distributions by set; None where they are not finite."""
    sets = {n: s for n, s in evidence.model.sets.items() if s.log_probs is not None and s.label is not None and len(s)}
    if "forget" not in sets or any(isinstance(attempt(log_probabilities, s), Missing) for s in sets.values()):
        return None
    forget, unseen = sets["forget"], sets.get("holdout")
    same_class = np.isin(unseen.label, forget.label) if unseen else np.array([], bool)

    def histograms(of: PerItem, top: float) -> dict[str, list[int]]:
        values = {"forget": of(forget), **({"unseen": of(unseen)[same_class]} if unseen and same_class.any() else {})}
        return {n: np.histogram(x.clip(0, top), BINS, (0, top))[0].tolist() for n, x in values.items()}

    class_count = forget.log_probs.shape[1]  # type: ignore[union-attr]
    return Classes(
        names=_names(list(sets.values()), class_count),
        called={n: _confusion(s) for n, s in sets.items()},
        confidence=histograms(confidence, 1.0),
        entropy=histograms(entropy, float(np.log(max(class_count, 2)))),
        roc=roc(-loss(forget), -loss(unseen)[same_class]) if unseen and same_class.any() else [],
        layers=_layers(evidence),
        places=_places(sets),
    )


def roc(members: Items, others: Items) -> list[tuple[float, float]]:
    """(share of others accused, share of members accused) at every threshold on scores that accuse where they are high, thinned."""
    from sklearn.metrics import roc_curve

    x, y, _ = roc_curve(np.repeat([1, 0], [len(members), len(others)]), np.concatenate([members, others]))
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return [(round(float(x[i]), 4), round(float(y[i]), 4)) for i in chosen]


def _names(sets: list[SetObservation], class_count: int) -> list[str]:
    """Names of the classes that occur, as the modality writes them; the numbers of the others."""
    names = [str(i) for i in range(class_count)]
    for observation in sets:
        for numbers, words in ((observation.label, observation.answer), (observation.log_probs.argmax(1), observation.generations)):  # type: ignore[union-attr]
            for i, word in dict(zip(numbers.tolist(), words, strict=False)).items():  # type: ignore[union-attr]
                names[i] = word
    return names


def _confusion(observation: SetObservation) -> list[tuple[int, int, int]]:
    pairs, counts = np.unique(np.stack([observation.label, observation.log_probs.argmax(1)], 1), axis=0, return_counts=True)  # type: ignore[arg-type, union-attr]
    return [(int(true), int(called), int(n)) for (true, called), n in zip(pairs, counts, strict=True)]


def _layers(evidence: Evidence) -> list[LayerSimilarity]:
    """CKA of the forgotten items' features with those of the original and of the retrained model, block by block."""

    def similarity(layer: str, beside: Beside) -> float | None:
        def of(observation: SetObservation) -> Items:
            if layer not in observation.features:
                raise Missing("not every model has this layer")
            if not np.isfinite(observation.features[layer]).all():
                raise Broken("features are not finite")
            return np.asarray(observation.features[layer], np.float64)

        similarities = attempt(evidence.both, "forget", of, beside)
        return None if isinstance(similarities, Missing) or np.isnan(value := linear_cka(*similarities)) else round(value, 4)

    similarities = [
        LayerSimilarity(n, similarity(n, "original"), similarity(n, "retrained")) for n in evidence.model.sets["forget"].features
    ]
    return [layer for layer in similarities if (layer.original, layer.retrained) != (None, None)]


def _places(sets: dict[str, SetObservation]) -> list[tuple[float, float, int, bool]]:
    """Some forgotten and retained items in a plane, by t-SNE of the head's inputs, from -1 to 1; the same items in every model."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    chosen = {n: np.linspace(0, len(sets[n]) - 1, min(len(sets[n]), limit)).round().astype(int) for n, limit in SPOTS.items() if n in sets}
    features = [sets[n].features[HEAD][indices] for n, indices in chosen.items() if HEAD in sets[n].features]
    x: Any = np.concatenate(features).astype(np.float64) if features else np.zeros((0, 1))
    if len(features) < len(chosen) or len(x) < 10 or min(x.shape) < 2 or not np.isfinite(x).all() or not (np.ptp(x, axis=0) > 0).any():
        return []
    with threadpool_limits(1):  # the order of sums over threads varies, and small differences grow
        placed = TSNE(perplexity=min(NEAR, len(x) / 4), init="pca", random_state=0, max_iter=STEPS).fit_transform(x)
    placed = placed - placed.mean(0)
    placed = (placed / np.abs(placed).max()).round(3)
    kind = [(int(y), n == "forget") for n, indices in chosen.items() for y in sets[n].label[indices]]  # type: ignore[index]
    return [(float(a), float(b), *k) for (a, b), k in zip(placed, kind, strict=True)]

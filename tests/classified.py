"""What a classifier was seen to do, written down: for metrics and attacks that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from expunge.evaluation.observation import HEAD, Observation, Scored, SetObservation


def a_set(p: Any, label: Sequence[int], name: str = "", features: Any = None) -> SetObservation:
    """Items with the given probabilities (items, classes) and true classes; their ids are numbered after the name of the set."""
    with np.errstate(divide="ignore"):
        dist = np.log(np.asarray(p, np.float64)).astype(np.float32)
    y = np.asarray(label, np.int64)
    n = len(y)
    ids = tuple(f"{name}{i}" for i in range(n))
    logp = dist[np.arange(n), y]
    scored = Scored(np.arange(n), np.arange(n + 1), logp, dist.argmax(1) == y, np.zeros(n, bool), tuple(map(str, y)))
    kept = {} if features is None else {HEAD: np.asarray(features, np.float32)}
    return SetObservation(ids, ids, tuple(map(str, y)), {"answer": scored}, log_probs=dist, label=y, features=kept)


def sure(
    label: Sequence[int], predictions: Sequence[int], name: str = "", classes: int = 3, p: float = 0.9, features: Any = None
) -> SetObservation:
    """Items that are called `said` with probability p; the rest is spread over the other classes."""
    rest = (1 - p) / (classes - 1)
    return a_set(np.where(np.eye(classes)[list(predictions)] > 0, p, rest), label, name, features)


def observed(**sets: SetObservation) -> Observation:
    return Observation(sets, {"modality": {"modality": "image"}})


def turned(observation: SetObservation) -> SetObservation:
    """The same items in reverse order."""
    back = slice(None, None, -1)
    return SetObservation(
        observation.ids[back],
        observation.question[back],
        observation.answer[back],
        {},
        log_probs=None if observation.log_probs is None else observation.log_probs[back],
        label=None if observation.label is None else observation.label[back],
        features={n: x[back] for n, x in observation.features.items()},
    )


def digits() -> dict[str, list[dict[str, Any]]]:
    """The rows of the tiny world of digits as records: 39 threes to forget, 321 other digits to keep, 120 unseen ones."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images[:480] / 16).astype(np.float32)
    rows = [{"image": x, "label": int(y)} for x, y in zip(images, data.target[:480], strict=True)]
    training = rows[:360]
    return {"forget": [r for r in training if r["label"] == 3], "retain": [r for r in training if r["label"] != 3], "holdout": rows[360:]}

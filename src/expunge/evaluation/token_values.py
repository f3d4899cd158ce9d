"""Log-probabilities of answers token by token, as arrays that can be held against another model's."""

from __future__ import annotations

import numpy as np

from expunge.evaluation.measure import Evidence, Items, Missing, labeled
from expunge.evaluation.metrics.memorization import content
from expunge.evaluation.observation import SetObservation


def tokens(observation: SetObservation) -> Items:
    """Log-probability of each token of the true answer of each item, and whether it is the likeliest one, (items, tokens, 2).

    All pieces of an item's answer stand one behind the other; the end of the sequence is left out; nan fills the rest.
    """
    scored = labeled(observation, "answer")
    pieces: list[list[Items]] = [[] for _ in range(len(observation))]
    for k, item in enumerate(scored.item):
        columns = (content(scored, k, scored.target_logp), content(scored, k, scored.hit))
        pieces[item].append(np.stack([c.astype(np.float64) for c in columns], axis=1))
    whole = [np.concatenate(p) if p else np.zeros((0, 2)) for p in pieces]
    table = np.full((len(whole), max(map(len, whole), default=0), 2), np.nan)
    for row, values in zip(table, whole, strict=True):
        row[: len(values)] = values
    return table


def beside_retrained(evidence: Evidence, name: str) -> list[tuple[Items, Items]]:
    """For each item of a set, log-probability and hit of its tokens under the model and under the retrained one, (tokens, 2) each.

    Raises:
        Missing: without a retrained model, and where the models read the answers as different tokens.
    """
    own, other = evidence.both(name, tokens)
    if own.shape != other.shape or (np.isnan(own) != np.isnan(other)).any():
        raise Missing(f"{name}: the model and the retrained model read the answers as different tokens")
    kept = [~np.isnan(row[:, 0]) for row in own]
    if not any(k.any() for k in kept):
        raise Missing(f"{name}: no answer has a token")
    return [(a[k], b[k]) for a, b, k in zip(own, other, kept, strict=True) if k.any()]

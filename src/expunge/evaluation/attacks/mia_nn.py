"""MIA-NN: do inputs of a forgotten class still look like their nearest class, as they do to retrained models?
Unlearning that pushes a class anywhere else than where retraining would send it gives away that the class was unlearned.

Threat model: the attacker reads the outputs of the attacked model on unseen inputs of retained and of forgotten classes, and can retrain
    models without the forgotten class; nothing is changed. It tests a distribution, not single items.
Source: Ebrahimpour-Boroojeny et al. 2025 (arXiv 2506.20893)
Scores: unlearned, retrained, spread, gap, total_variation
Needs: unseen inputs of retained classes and of the forgotten class; several retrained models (three at least)
Range and ideal: shares 0 to 1; gap and total_variation 0 to 1, ideal 0; a gap within the spread of retrained models is none
Differs: the protocol is reconstructed from the paper's text and its reviews: kernel, its settings and the halving of the inputs are ours
Status: faithful
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.ensemble import Ensemble, alone, logits
from expunge.evaluation.measure import Items

FEWEST = 4  # inputs of a class: two for the machine and two to check it


class NearestClass(NamedTuple):
    """The share of forgotten inputs that look like the nearest class, to the unlearned model and to the retrained ones (their mean)."""

    nearest: str  # the class that forgotten inputs look like most to retrained models
    unlearned: float
    retrained: float
    spread: float  # largest distance of a retrained model's share from their mean
    gap: float  # of the unlearned model's share from that mean
    total_variation: float  # of the unlearned model's distributions on forgotten inputs from the retrained models' mean
    sanity: float  # accuracy of the machine for the nearest class on inputs that it was not fitted on


def looks_like(outputs: Items, labels: NDArray[np.int64], queries: Items, seed: int = 0) -> tuple[Items, Items]:
    """For each class, a kernel machine learns from a model's outputs which ones look like the class; find the share of `queries` that do.

    Args:
        outputs: (items, classes), of inputs of retained classes.
        labels: (items,).
        queries: (others, classes).

    Returns:
        The shares and the machines' accuracies on the held-out half of the items, each (retained classes,), in the order of the labels.
    """
    from sklearn.svm import SVC

    rng, shares, accuracies = np.random.default_rng(seed), [], []
    for c in np.unique(labels):
        positives, rest = (rng.permutation(np.flatnonzero(x)) for x in (labels == c, labels != c))
        size = min(len(positives), len(rest)) // 2 * 2
        learned, held_out = (np.concatenate([positives[i:size:2], rest[i:size:2]]) for i in (0, 1))
        machine = SVC().fit(outputs[learned], labels[learned] == c)
        shares.append(machine.predict(queries).mean())
        accuracies.append((machine.predict(outputs[held_out]) == (labels[held_out] == c)).mean())
    return np.array(shares), np.array(accuracies)


def total_variation(p: Items, q: Items) -> float:
    """Mean over items of half the absolute difference of two distributions (items, classes)."""
    return float(np.abs(p - q).sum(-1).mean() / 2)


def attack(
    model: nn.Module, retrained: Ensemble, modality: Modality, unseen: Rows, forgotten: Rows, *, probabilities: bool = False, seed: int = 0
) -> NearestClass:
    """Attack an unlearned model. retrained: models that were trained without the forgotten class, on several seeds.

    Args:
        unseen: held-out inputs of retained classes.
        forgotten: held-out inputs of the forgotten class.
        probabilities: the machines read probabilities instead of logits.

    Raises:
        UserError: for too few retrained models, inputs or classes.
    """
    names, labels = np.unique(modality.answer_texts(unseen), return_inverse=True)
    if len(retrained) < 3 or np.bincount(labels).min() < FEWEST or len(names) < 2:
        raise UserError(f"this attack needs 3 retrained models, and {FEWEST} unseen inputs of each of 2 retained classes, at least")
    results = []
    for pool in (alone(model), retrained):
        logits_of = [logits(pool, modality, rows).cpu().double() for rows in (unseen, forgotten)]
        p = logits_of[1].softmax(-1).mean(0).numpy()
        inputs = (x.softmax(-1).numpy() if probabilities else x.numpy() for x in logits_of)
        by_model = [looks_like(a, labels, b, seed) for a, b in zip(*inputs, strict=True)]
        shares, sanity = (np.stack(x) for x in zip(*by_model, strict=True))
        results.append((shares, sanity, p))
    (own_shares, own_sanity, p), (retrained_shares, _, q) = results
    nearest = int(retrained_shares.mean(0).argmax())
    share, mean_share = float(own_shares[0, nearest]), float(retrained_shares[:, nearest].mean())
    spread = float(np.abs(retrained_shares[:, nearest] - mean_share).max())
    return NearestClass(
        str(names[nearest]), share, mean_share, spread, abs(share - mean_share), total_variation(p, q), float(own_sanity[0, nearest])
    )

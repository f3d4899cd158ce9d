"""KLoM: how far the margins that unlearned models give a point are from those that retrained models give it.
One model says little: many are unlearned, many retrained, and their margins at each point are compared as distributions.

Source: Georgiev et al. 2025 (arXiv 2410.23232); the benchmark EasyDUB (arXiv 2602.16400)
Scores: klom: a divergence of each point, and its mean and 95th percentile over the points of each group (forget, retain, validation)
Needs: margins of several unlearned and of several retrained models at the same points; see `expunge.parallel.ensembles`
Range and ideal: 0 to 11.51, ideal `floor`, that of retrained models against each other: about 0.35 (mean) and 0.7 (95th percentile) for a
    hundred against a hundred. Differences below 0.1 mean nothing, and a model that always says the same can pass: read utility beside it
Differs: the divergence of the unlearned models from the retrained ones, as the text of the paper has it; the benchmark's tables hold the
    other direction, which `direction` gives, and so does its newer code, which does not renormalize q either (`renormalized=False`); the
    last bin is closed, where the benchmark's code drops the largest margins
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from expunge.evaluation.measure import Items

Direction = Literal["unlearned||retrained", "retrained||unlearned"]

BINS = 20  # of equal width, between the smallest and the largest margin at a point
LARGEST = 100.0  # margins beyond it are cut
LEAST = 1e-5  # probability of a bin in which only the other models have margins


class Summary(NamedTuple):
    """KLoM over the points of a group."""

    mean: float
    p95: float
    points: int


def klom(unlearned: Items, retrained: Items, direction: Direction = "unlearned||retrained", renormalized: bool = True) -> Items:
    """The divergence KL(p || q) at each point, (points,), in nats, from margins unlearned (models, points) and retrained (others, points).

    Args:
        direction: which models p and q stand for.
        renormalized: q sums to 1 again after its bins were raised to the least probability.

    Raises:
        ValueError: where there are no models, where the points differ, or where a margin is not a number.
    """
    if unlearned.shape[1:] != retrained.shape[1:] or not len(unlearned) or not len(retrained):
        raise ValueError(f"margins of shape {unlearned.shape} and {retrained.shape} are not of some models each at the same points")
    unlearned, retrained = (np.clip(np.asarray(x, np.float64), -LARGEST, LARGEST) for x in (unlearned, retrained))
    low, high = np.minimum(unlearned.min(0), retrained.min(0)), np.maximum(unlearned.max(0), retrained.max(0))
    if not np.isfinite(low + high).all():
        raise ValueError("a margin is not a number")
    width = np.where(high > low, high - low, 1.0)
    ordered = (unlearned, retrained) if direction == "unlearned||retrained" else (retrained, unlearned)
    p, q = (_histogram((x - low) / width) for x in ordered)
    q = np.where(p > 0, np.maximum(q, LEAST), q)
    if renormalized:
        q /= q.sum(0)
    return np.asarray((p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, q, 1))).sum(0))


def _histogram(position: Items) -> Items:
    """Share of the models in each bin, (bins, points). position: (models, points), from 0 to 1, the end included."""
    bins = np.minimum((position * BINS).astype(np.int64), BINS - 1)
    return np.asarray((bins == np.arange(BINS)[:, None, None]).mean(1))


def summary(values: Items) -> Summary:
    """KLoM of a group from its divergences, (points,). Raises: ValueError where there are no points."""
    if not len(values):
        raise ValueError("a group without points has no KLoM")
    return Summary(float(np.mean(values)), float(np.quantile(values, 0.95)), len(values))


def by_group(groups: Mapping[str, tuple[Items, Items]], direction: Direction = "unlearned||retrained") -> dict[str, Summary]:
    """Mean and 95th percentile of groups of points. groups: name -> margins of unlearned and of retrained models, as of `klom`."""
    return {name: summary(klom(unlearned, retrained, direction)) for name, (unlearned, retrained) in groups.items()}


def floor(retrained: Items) -> Summary:
    """What perfect unlearning would score with half as many models: one half of the retrained models against the other, (models, points).

    Raises:
        ValueError: for fewer than two models.
    """
    half = len(retrained) // 2
    return summary(klom(retrained[:half], retrained[half : 2 * half]))

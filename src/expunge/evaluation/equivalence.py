"""Differences between two models on the same items, with bounds that hold for few items, and corrections for many tests.

Two models are the same by a score where the whole interval of their difference lies within a margin (two one-sided tests). For scores that
are means of values from 0 to 1, the bounds are those of Gaffke (2005): the items get random weights, as in the Bayesian bootstrap, and one
further item that was never seen stands at the worst end of the scale. So four items that all agree do not prove that everything agrees:
for values of 0 and 1 the bounds are the exact ones of Clopper and Pearson.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expunge.engine.shared import shared
from expunge.evaluation.measure import Items, Measure
from expunge.functional.brief import brief

DRAWS = 4000  # of weights
REDRAWN = 200  # draws of a bootstrap, for scores that are no means
LARGEST = 2000  # items of a set in a kernel of pairs, whose size is the product of both sets; the interval is as wide as for so many
WORST = 1.0  # the largest difference that an item which was never seen can have


@brief()
@dataclass(frozen=True, eq=False)
class Difference:
    """The difference of a score between two models.

    Args:
        value, yardstick: of the first model and of the other one.
        low, high: draws of the difference as if an unseen item stood at either end of the scale, (draws,).
        n: items of the first array.
    """

    value: float
    yardstick: float
    low: Items
    high: Items
    n: int

    @property
    def effect(self) -> float:
        return self.value - self.yardstick

    def interval(self, alpha: float) -> tuple[float, float]:
        """Each bound holds with probability 1 - alpha."""
        low, high = float(np.quantile(self.low, alpha)), float(np.quantile(self.high, 1 - alpha))
        return min(low, self.effect), max(high, self.effect)

    def p_above(self, limit: float) -> float:
        """p-value of "the difference is at most `limit`"."""
        return float((1 + (self.low <= limit).sum()) / (1 + len(self.low)))

    def p_below(self, limit: float) -> float:
        """p-value of "the difference is at least `limit`"."""
        return float((1 + (self.high >= limit).sum()) / (1 + len(self.high)))


def difference(own: Measure, other: Measure, seed: int = 0) -> Difference:
    """The difference of two measures of one score. Items are paired where both models answered as many, in the same order."""
    paired = [len(a) for a in own.items] == [len(b) for b in other.items]
    n = len(own.items[0])
    value, yardstick = own.value(), other.value()
    if own.kernel is None or other.kernel is None:
        draws = _redrawn(own, other, paired, np.random.default_rng(seed))
        return Difference(value, yardstick, draws, draws, n)
    own_values, other_values = (m.kernel(*m.items) if len(m.items) == 1 else m.kernel(*map(_some, m.items)) for m in (own, other))
    if paired:
        (center, unseen), *_ = _weighted(seed, own_values - other_values)
        return Difference(value, yardstick, center - WORST * unseen, center + WORST * unseen, n)
    (a, unseen_a), (b, unseen_b) = _weighted(seed, own_values, other_values)
    return Difference(value, yardstick, a - b - unseen_b, a + unseen_a - b, n)


def least_visible(n: int, alpha: float) -> float:
    """The smallest difference that `n` items can rule out, where all of them agree."""
    return float(1 - alpha ** (1 / n))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the given order."""
    order, corrected, largest = np.argsort(p, kind="stable"), [1.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def _some(items: Items) -> Items:
    """Evenly spaced items, `LARGEST` at most; the same places in sets of one length, so that pairs stay pairs."""
    return items if len(items) <= LARGEST else items[np.linspace(0, len(items) - 1, LARGEST).round().astype(int)]


def _weighted(seed: int, *kernels: Items) -> list[tuple[Items, Items]]:
    """Draws of the weighted mean of each kernel, (draws,), without the unseen item of its first axis; and that item's weight, (draws,)."""
    sizes = tuple(size for kernel in kernels for size in (len(kernel) + 1, *kernel.shape[1:]))
    drawn = iter(_weights(seed, sizes))
    means = []
    for kernel in kernels:
        weights = next(drawn)
        mean, unseen = weights[:, :-1] @ kernel, weights[:, -1]
        means.append((mean if kernel.ndim == 1 else np.einsum("dj,dj->d", mean, next(drawn)), unseen))
    return means


def _weights(seed: int, sizes: tuple[int, ...]) -> list[Items]:
    """Weights of items, (draws, size) for each size. In a block of `sharing`, scores of as many items get the same ones, undrawn."""
    results, key = shared(), f"weights {seed} {sizes}"
    weights: list[Items] | None = results.get(key) if results is not None else None
    if weights is None:
        rng = np.random.default_rng(seed)
        weights = [rng.dirichlet(np.ones(size), DRAWS) for size in sizes]
        if results is not None:
            results.put(key, weights, sum(w.nbytes for w in weights))
    return weights


def _redrawn(own: Measure, other: Measure, paired: bool, rng: np.random.Generator) -> Items:
    """Bootstrap draws of the difference, (draws,), with common draws of paired items; draws without a value are left out."""

    def drawn(measure: Measure, places: Sequence[Items]) -> float:
        return float(measure.stat(*(x[i] for x, i in zip(measure.items, places, strict=True))))

    draws = []
    for _ in range(REDRAWN):
        places, other_places = ([rng.integers(len(x), size=len(x)) for x in m.items] for m in (own, other))
        draws.append(drawn(own, places) - drawn(other, places if paired else other_places))
    kept = np.array([d for d in draws if np.isfinite(d)])
    return kept if len(kept) else np.array([own.value() - other.value()])

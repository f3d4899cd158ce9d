"""Tests of two outcomes of the same items."""

from __future__ import annotations

from math import erfc, sqrt
from typing import NamedTuple

FEW = 25  # changed items below which the asymptotic test gives way to the exact one


class McNemar(NamedTuple):
    """Whether items fare better before a change than after it, from those that fare differently."""

    worse: int  # items that fare worse after the change
    better: int  # and better
    statistic: float  # chi-squared, one degree of freedom
    p_asymptotic: float
    p_exact: float

    @property
    def p(self) -> float:
        """The exact p-value for few changed items, the asymptotic one otherwise."""
        return self.p_exact if self.worse + self.better < FEW else self.p_asymptotic


def mcnemar(worse: int, better: int) -> McNemar:
    """McNemar's test, two-sided, without a correction for continuity.

    Args:
        worse, better: numbers of items that fare worse and better after a change.
    """
    from scipy.stats import binomtest

    changed = worse + better
    if not changed:
        return McNemar(0, 0, 0.0, 1.0, 1.0)
    statistic = (worse - better) ** 2 / changed
    return McNemar(worse, better, statistic, erfc(sqrt(statistic / 2)), float(binomtest(worse, changed, 0.5).pvalue))

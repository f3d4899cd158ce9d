"""Effects over units, their intervals, and what they decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.stats import t as student

Verdict = Literal["shown", "not shown", "undecided", "case invalid"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effect:
    """The effect against one rival over all units (original x draw of the data), in the units of the score.

    Args:
        rival: name of the rival.
        values: the effect of each unit; positive means better than the rival.
        mean: over units.
        low, high: the 95 % interval of the mean over units.
    """

    rival: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float

    def verdict(self, matters: float) -> Verdict:
        """What the interval says of an effect of at least `matters`.

        `shown`: the interval lies above 0, and the mean is at least what matters. `not shown`: the interval lies below what matters.
        `undecided`: neither, so that more units could decide.
        """
        if self.low > 0 and self.mean >= matters:
            return "shown"
        return "not shown" if self.high < matters else "undecided"


def effect_of(rival: str, values: Sequence[float]) -> Effect:
    """The mean of paired differences with Student's interval.

    Args:
        rival: name of the rival.
        values: one difference for each unit, at least two.
    """
    mean = fmean(values)
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Effect(rival, tuple(values), mean, mean - half, mean + half)


def weakest(effects: Sequence[Effect], matters: float) -> tuple[Effect, Verdict]:
    """The rival against which the claim is weakest, and what it decides: a claim about several rivals holds where it holds for each.

    No correction for several rivals is needed, because all comparisons must succeed (an intersection-union test).
    """
    order: tuple[Verdict, ...] = ("not shown", "undecided", "shown")
    ranked = sorted(effects, key=lambda e: (order.index(e.verdict(matters)), e.low))
    return ranked[0], ranked[0].verdict(matters)


@dataclass(frozen=True)
class Gate:
    """A condition without which a case says nothing about a method."""

    text: str
    value: float
    holds: bool

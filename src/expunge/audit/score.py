"""What a number of an audit is: a statistic over items, with its interval, direction and ideal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .observed import Observed

Items = NDArray[np.float64]


class Missing(Exception):
    """A score cannot be computed from what there is; the message says what is missing, as the user reads it."""


@dataclass(frozen=True, eq=False)
class Measure:
    """`stat(*items)` is the value; rows of each array of `items` are what the bootstrap draws again, each array on its own."""

    items: tuple[Items, ...]
    stat: Callable[..., float]
    direction: Literal["lower", "higher", "retrained"]  # what good forgetting looks like; retrained: as close as can be to the retrained model
    ideal: float | None = None  # None: the retrained model's value
    variant: str = ""  # which definition, where paper and code differ

    @property
    def n(self) -> int:
        return sum(len(x) for x in self.items)

    def value(self) -> float:
        return float(self.stat(*self.items))

    def interval(self, resamples: int = 200, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap over items; (value, value) where nothing varies."""
        rng = np.random.default_rng(seed)
        draws = [self.stat(*(x[rng.integers(len(x), size=len(x))] for x in self.items)) for _ in range(resamples)]
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


@dataclass(frozen=True)
class Evidence:
    """What a family of scores may read: the model's observations and, where given, those of the retrained and of the original model."""

    model: Observed
    retrained: Observed | None = None
    original: Observed | None = None


# A family of scores is a file of `audit/metrics` or `audit/attacks` with a docstring card and
#     scores(evidence: Evidence) -> Mapping[str, Measure | Missing]
# which is pure: it reads observations, names every score that it knows, and says of each either how it comes out or what is missing.
Scores = Mapping[str, Measure | Missing]

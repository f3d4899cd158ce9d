"""Claims of papers that numbers should support."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

Numbers = Mapping[str, Mapping[str, float]]  # by model, then by score


@dataclass(frozen=True)
class Claim:
    """A claim about the numbers of a method; `holds(numbers, name)` decides it."""

    text: str
    holds: Callable[[Numbers, str], bool]


def pooled(runs: Sequence[Mapping[str, float]], of: Callable[[Iterable[float]], float] = fmean) -> dict[str, float]:
    """Pool each score over runs, by default to its mean; `of` maps the values of a score to one number."""
    return {score: float(of([run[score] for run in runs])) for score in runs[0]}


def pooled_numbers(runs: Sequence[Numbers], of: Callable[[Iterable[float]], float] = fmean) -> Numbers:
    """Pool the scores of each model over runs, as `pooled` does."""
    return {model: pooled([run[model] for run in runs], of) for model in runs[0]}

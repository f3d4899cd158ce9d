"""What a paper says that numbers should show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

Numbers = Mapping[str, Mapping[str, float]]  # by model, then by score


@dataclass(frozen=True)
class Claim:
    """Something that the numbers of a method should show. `holds(numbers, name)`."""

    text: str
    holds: Callable[[Numbers, str], bool]


def pooled(runs: Sequence[Mapping[str, float]], of: Callable[[Iterable[float]], float] = fmean) -> dict[str, float]:
    """The mean of each score over runs, or what else is made `of` its values."""
    return {n: float(of([r[n] for r in runs])) for n in runs[0]}


def pooled_numbers(runs: Sequence[Numbers], of: Callable[[Iterable[float]], float] = fmean) -> Numbers:
    """The same of each model."""
    return {m: pooled([r[m] for r in runs], of) for m in runs[0]}

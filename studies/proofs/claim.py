"""What a paper claims, and the runs that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

Scores = Mapping[str, float]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One line of a comparison: a method with its fixed hyperparameters and with those that are tuned.

    Args:
        name: of the line.
        method: of the catalog.
        fixed: hyperparameters that no tuning changes.
        grid: values of the hyperparameters that tuning tries, all combinations.
        bare: whether the method runs without its updates, as what it is built on.
    """

    name: str
    method: str
    fixed: Settings = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    bare: bool = False

    def settings(self) -> list[dict[str, Any]]:
        """All settings that tuning tries; the fixed one alone where nothing is tuned."""
        return [{**self.fixed, **dict(zip(self.grid, values, strict=True))} for values in product(*self.grid.values())]


@dataclass(frozen=True)
class Claim:
    """A comparison that a paper reports.

    Args:
        text: the claim in a sentence.
        source: the paper's table, figure or section.
        score: what is compared.
        rivals: names of the arms or models (`original`, `retrained`) that the method is compared with, each alone.
        better: whether more or less of the score is better.
        matters: the smallest difference that matters, in the score's own units.
        level: the score along which the arms are brought to one level before they are compared; '' compares where they end.
        target: the model whose level that is.
        margin: by how much the method may be worse and still count as equal, for claims that it is no worse.
    """

    text: str
    source: str
    score: str
    rivals: tuple[str, ...]
    better: Literal["higher", "lower"]
    matters: float
    level: str = ""
    target: str = "retrained"
    margin: float = 0.0

    def effect(self, own: float, other: float) -> float:
        """By how much the method is better than a rival, and than what still counts as equal; negative where it is worse."""
        return self.margin + (own - other if self.better == "higher" else other - own)


def spent(receipt: Mapping[str, Any]) -> float:
    """The cost of a run: tokens or rows in forward passes, and twice those in backward passes. A count, not a time."""
    return float(receipt["cost"]["tokens"] + 2 * receipt["cost"]["backward_tokens"])

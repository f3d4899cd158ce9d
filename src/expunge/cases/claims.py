"""What a paper says that numbers should show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Numbers = Mapping[str, Mapping[str, float]]  # by model, then by score


@dataclass(frozen=True)
class Claim:
    """Something that the numbers of a method should show. `holds(numbers, name)`."""

    text: str
    holds: Callable[[Numbers, str], bool]

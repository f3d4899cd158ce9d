"""How much of what was lost, or removed, comes back."""

from __future__ import annotations

from collections.abc import Sequence


def recovered_share(value: float, low: float, high: float) -> float:
    """Where a value stands between a low and a high one: 0 at the low one, 1 at the high one; nan where the two are equal."""
    return (value - low) / (high - low) if high != low else float("nan")


def first_at_most(values: Sequence[float], target: float) -> int:
    """The place of the first value that is at most the target; without one, the last place.

    Raises:
        ValueError: without values.
    """
    if not values:
        raise ValueError("there is no value to choose from")
    return next((place for place, value in enumerate(values) if value <= target), len(values) - 1)

"""How fast a score comes back with the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping
from math import log1p
from typing import NamedTuple

from expunge.functional.recovery_rates import recovered_share


class RecoveryCurve(NamedTuple):
    """A curve in three numbers.

    Args:
        half: the first number of steps at which half of the way is made; None: it never is.
        area: the mean of the recovered share over log(1 + steps), by trapezoids, from the first point to the last.
        last: the share at the end.
    """

    half: float | None
    area: float
    last: float


def recovery_curve(values: Mapping[float, float], original: float) -> RecoveryCurve | None:
    """The curve from the value before the first step, which counts as 0, to that of the original, which counts as 1.

    Args:
        values: the score by the number of steps; 0 must be among them.
        original: the score of the original model.

    Returns:
        The curve; None where there is a single point, or nothing to recover.
    """
    steps = sorted(values)
    if len(steps) < 2 or values[0] == original:
        return None
    shares = [recovered_share(values[s], values[0], original) for s in steps]
    places = [log1p(s) for s in steps]
    pieces = [(b - a) * (x + y) / 2 for a, b, x, y in zip(places, places[1:], shares, shares[1:], strict=False)]
    half = next((s for s, share in zip(steps, shares, strict=True) if share >= 0.5), None)
    return RecoveryCurve(half, sum(pieces) / (places[-1] - places[0]), shares[-1])

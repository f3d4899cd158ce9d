"""Recovery curves by hand."""

from __future__ import annotations

from math import e

import pytest

from expunge.functional.recovery_curves import recovery_curve


def test_a_curve_by_hand() -> None:
    """At log(1 + steps) of 0, 1 and 3 the shares are 0, 1/4 and 3/4: the area is (1/8 + 1) / 3."""
    curve = recovery_curve({0: 0.2, e - 1: 0.4, e**3 - 1: 0.8}, 1.0)
    assert curve is not None
    assert curve.half == pytest.approx(e**3 - 1)
    assert curve.area == pytest.approx(9 / 8 / 3)
    assert curve.last == pytest.approx(0.75)


def test_limits() -> None:
    flat = recovery_curve({0: 0.1, 10: 0.1, 100: 0.1}, 0.9)
    assert flat == (None, 0, 0)
    at_once = recovery_curve({0: 0.0, 1: 1.0}, 1.0)
    assert at_once is not None
    assert (at_once.half, at_once.last) == (1, 1)
    assert recovery_curve({0: 0.5}, 1.0) is None
    assert recovery_curve({0: 0.5, 5: 0.7}, 0.5) is None, "nothing was forgotten"
    falling = recovery_curve({0: 0.4, 3: 0.8}, 0.2)
    assert falling is not None
    assert falling.last == pytest.approx(-2)

"""The world of people along a line: where a step first forgets enough."""

from __future__ import annotations

import pytest
from studies.proofs import vectors


@pytest.mark.parametrize("enough", [0.1, 0.3, 5.0, 300.0])
def test_the_first_length_that_forgets_enough_is_between_the_two(enough: float) -> None:
    low, high = vectors.crossing(lambda length: length >= enough)
    assert low < enough <= high
    assert high - low <= max(enough, vectors.SHORTEST) / 2**vectors.HALVINGS


def test_a_line_that_never_forgets_ends_at_the_longest_step() -> None:
    low, high = vectors.crossing(lambda length: False)
    assert low == pytest.approx(high, rel=0.01)
    assert high == vectors.LONGEST

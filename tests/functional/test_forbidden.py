"""Trees of forbidden sequences: ratios by hand, sequences that overlap themselves, and a plain search as the oracle."""

from __future__ import annotations

import random

import pytest

from expunge.functional.forbidden import ForbiddenTree


def ratios(sequences: list[list[int]], stream: list[int]) -> list[float]:
    """The ratio after each token of a stream."""
    tree, live, out = ForbiddenTree(sequences), (), []
    for token in stream:
        live = tree.advance(live, token)
        out.append(tree.ratio(live))
    return out


@pytest.mark.parametrize(
    ("sequences", "stream", "wanted"),
    [
        ([[5, 6, 7]], [1, 5, 6, 7], [0, 1 / 3, 2 / 3, 1]),
        ([[5, 5, 6]], [5, 5, 5, 6], [1 / 3, 2 / 3, 2 / 3, 1]),
        ([[5, 6], [5, 6, 7, 8]], [5, 6, 7, 8], [1 / 2, 1, 3 / 4, 1]),
        ([[1, 2, 3, 4], [2, 3]], [1, 2, 3], [1 / 4, 1 / 2, 1]),
        ([], [1, 2], [0, 0]),
    ],
)
def test_ratios_by_hand(sequences: list[list[int]], stream: list[int], wanted: list[float]) -> None:
    assert ratios(sequences, stream) == pytest.approx(wanted)


def test_ratios_of_next_tokens_are_those_after_them() -> None:
    tree = ForbiddenTree([[5, 6, 7], [6, 8]])
    assert tree.next_ratios(tree.advance((), 5)) == pytest.approx({5: 1 / 3, 6: 2 / 3})
    assert tree.next_ratios(tree.advance(tree.advance((), 5), 6)) == pytest.approx({5: 1 / 3, 6: 1 / 2, 7: 1, 8: 1})
    assert tree.first == {5, 6}
    assert len(tree) == 5


def test_a_sequence_counts_as_complete_exactly_where_it_stands_at_the_end_of_the_text() -> None:
    rng = random.Random(0)
    for _ in range(100):
        sequences = [[rng.randrange(3) for _ in range(rng.randint(1, 4))] for _ in range(3)]
        stream = [rng.randrange(3) for _ in range(12)]
        for i, ratio in enumerate(ratios(sequences, stream), 1):
            complete = any(stream[:i][-len(s) :] == s for s in sequences)
            assert (ratio == 1) == complete

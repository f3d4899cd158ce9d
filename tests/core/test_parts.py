"""Rows: what stands behind each other keeps its columns and weights."""

from __future__ import annotations

from expunge.core.rows import Rows


def test_joined_rows_keep_what_both_have() -> None:
    one, two = Rows("a", ("1", "2"), {"x": [1, 2], "y": [0, 0]}), Rows("b", ("3",), {"z": [9], "x": (3,)})
    found = one.concat(two)
    assert (found.name, found.ids, dict(found.columns), found.weight) == ("a", ("1", "2", "3"), {"x": [1, 2, 3]}, ())


def test_a_row_without_weight_counts_once_beside_weighted_ones() -> None:
    one, two = Rows("a", ("1",), {"x": [1]}, (0.5,)), Rows("b", ("2",), {"x": [2]})
    assert one.concat(two).weight == (0.5, 1.0)
    assert two.concat(one).weight == (1.0, 0.5)

"""Rows: concatenation keeps common columns and weights."""

from __future__ import annotations

from expunge.core.rows import Rows


def test_concatenated_rows_keep_the_columns_that_both_have() -> None:
    first, second = Rows("a", ("1", "2"), {"x": [1, 2], "y": [0, 0]}), Rows("b", ("3",), {"z": [9], "x": (3,)})
    both = first.concat(second)
    assert (both.name, both.ids, dict(both.columns), both.weight) == ("a", ("1", "2", "3"), {"x": [1, 2, 3]}, ())


def test_rows_without_weights_get_weight_one_beside_weighted_rows() -> None:
    weighted, unweighted = Rows("a", ("1",), {"x": [1]}, (0.5,)), Rows("b", ("2",), {"x": [2]})
    assert weighted.concat(unweighted).weight == (0.5, 1.0)
    assert unweighted.concat(weighted).weight == (1.0, 0.5)

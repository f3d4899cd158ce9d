"""Functions of packed positions against numbers worked out by hand."""

import math

import pytest
import torch

from expunge.functional.packed import lowered, places


def test_places_restart_in_each_row_and_skip_empty_rows() -> None:
    row = torch.tensor([0, 0, 0, 2, 2, 3])
    assert places(row, torch.tensor([3, 0, 2, 1])).tolist() == [0, 1, 2, 0, 1, 0]


def test_lowering_by_log_nine_matches_hand_values() -> None:
    scores = torch.tensor([[math.log(0.9), math.log(0.06), math.log(0.04)]])
    assert lowered(scores, torch.tensor([0]), math.log(9)).tolist()[0] == pytest.approx([0.5, 0.3, 0.2], abs=1e-6)


def test_lowering_by_infinity_gives_the_label_probability_zero() -> None:
    scores = torch.tensor([[math.log(0.9), math.log(0.06), math.log(0.04)]])
    assert lowered(scores, torch.tensor([0]), math.inf).tolist()[0] == pytest.approx([0.0, 0.6, 0.4], abs=1e-6)


def test_lowering_ignores_added_constants_and_keeps_its_input() -> None:
    scores, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 2])
    original = scores.clone()
    assert torch.allclose(lowered(scores, labels, 3.0), lowered(scores + 7.0, labels, 3.0))
    assert torch.equal(scores, original)

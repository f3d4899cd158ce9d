"""Margins by hand, as an identity of probabilities, and where probabilities round to 0 or 1."""

import pytest
import torch

from expunge.functional.margins import margin


def test_margin_matches_hand_values() -> None:
    scores = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]], dtype=torch.float64))
    assert margin(scores, torch.tensor([0, 2])).tolist() == pytest.approx([0.847298, -2.197225], abs=1e-6)


def test_margin_of_two_classes_is_the_score_difference() -> None:
    scores = torch.randn(5, 2, dtype=torch.float64)
    assert torch.allclose(margin(scores, torch.tensor([0, 1, 0, 1, 1])), (scores[:, 0] - scores[:, 1]) * torch.tensor([1, -1, 1, -1, -1]))


def test_sigmoid_of_the_margin_is_the_probability_and_constants_cancel() -> None:
    scores, labels = torch.randn(3, 7, 9, dtype=torch.float64), torch.randint(9, (3, 7))
    p = scores.softmax(-1).gather(-1, labels[..., None])[..., 0]
    assert torch.allclose(margin(scores, labels).sigmoid(), p)
    assert torch.allclose(margin(scores + 5, labels), margin(scores.log_softmax(-1), labels))


def test_margin_is_finite_where_the_probability_rounds_to_one() -> None:
    scores = torch.tensor([[300.0, 0.0, 0.0], [-300.0, 0.0, 0.0]])
    margins = margin(scores, torch.tensor([0, 0]))
    assert margins.tolist() == pytest.approx([300 - 0.693147, -300 - 0.693147])


def test_margin_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="no other"):
        margin(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))

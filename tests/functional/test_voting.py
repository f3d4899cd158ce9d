"""Two models by hand: the mean of their probabilities, and their votes."""

import math

import pytest
import torch

from expunge.functional.voting import majority, mean_of_softmax


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_mean_of_probabilities() -> None:
    mean = mean_of_softmax([logs(0.9, 0.1), logs(0.2, 0.8) + 5.0])
    assert mean.exp().tolist() == pytest.approx([0.55, 0.45])


def test_mean_of_probabilities_with_shares() -> None:
    mean = mean_of_softmax([logs(0.9, 0.1), logs(0.2, 0.8)], torch.tensor([0.75, 0.25], dtype=torch.float64))
    assert mean.exp().tolist() == pytest.approx([0.725, 0.275])


def test_votes_and_one_more_for_all_classes() -> None:
    votes = majority([logs(0.5, 0.3, 0.2), logs(0.4, 0.5, 0.1), logs(0.1, 0.8, 0.1)])
    assert votes.exp().tolist() == pytest.approx([4 / 12, 7 / 12, 1 / 12])
    assert float(votes.logsumexp(-1)) == pytest.approx(0.0, abs=1e-12)


def test_the_lowest_class_wins_a_tie() -> None:
    assert int(majority([logs(0.1, 0.9), logs(0.9, 0.1)]).argmax()) == 0
    assert math.isclose(float(majority([logs(0.5, 0.5)])[0].exp()), 0.75)

"""Adagrad as codes of recommenders have it: it begins with almost nothing accumulated."""

import pytest
import torch

from expunge.core.plan import Train
from expunge.engine.schedule import descend, optimizer_of


def test_two_steps_by_hand() -> None:
    weight, accumulated, by_hand = torch.tensor([1.0, 2.0]).requires_grad_(), torch.full((2,), 1e-8), torch.tensor([1.0, 2.0])
    optimizer = optimizer_of(Train(optimizer="adagrad", lr=0.1), [weight])
    for gradient in (torch.tensor([0.5, 0.0]), torch.tensor([-2.0, 1e-3])):
        descend(optimizer, [weight], [gradient], [])
        accumulated = accumulated + gradient.square()
        by_hand = by_hand - 0.1 * gradient / (accumulated.sqrt() + 1e-10)
    assert weight.tolist() == pytest.approx(by_hand.tolist(), rel=1e-6)

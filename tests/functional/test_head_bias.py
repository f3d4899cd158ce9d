"""A bias of the output layer: its gradient by hand and by autograd, and what it converges to."""

from __future__ import annotations

import math

import pytest
import torch

from expunge.functional.head_bias import bias_gradient, cross_entropy


def test_gradient_by_hand() -> None:
    """Two labels of three classes, equal logits: probabilities are a third each."""
    gradient = bias_gradient(torch.zeros(2, 3), torch.tensor([0, 0]), torch.zeros(3))
    assert gradient.tolist() == pytest.approx([1 / 3 - 1, 1 / 3, 1 / 3])
    assert float(cross_entropy(torch.zeros(2, 3), torch.tensor([0, 0]), torch.zeros(3))) == pytest.approx(math.log(3))


def test_gradient_is_that_of_the_loss() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 5, generator=rng, dtype=torch.double), torch.randint(5, (7,), generator=rng)
    bias, step = torch.randn(5, generator=rng, dtype=torch.double), 1e-6
    numeric = []
    for k in range(5):
        moved = torch.zeros(5, dtype=torch.double)
        moved[k] = step
        numeric.append(float(cross_entropy(logits, labels, bias + moved) - cross_entropy(logits, labels, bias - moved)) / (2 * step))
    assert bias_gradient(logits, labels, bias).tolist() == pytest.approx(numeric, abs=1e-8)


def test_at_the_optimum_probabilities_are_the_shares_of_the_labels() -> None:
    rng = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(40, 4, generator=rng, dtype=torch.double), torch.arange(40) % 4 % 3
    bias = torch.zeros(4, dtype=torch.double)
    for _ in range(4000):
        bias -= bias_gradient(logits, labels, bias)
    shares = (logits + bias).softmax(-1).mean(0)
    assert shares[:3].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-3)
    assert float(shares[3]) < 1e-3

"""Projections onto simplexes, against hand values and the conditions of optimality."""

from __future__ import annotations

import pytest
import torch

from expunge.functional.simplex import capped, shares


def test_weights_up_to_one_match_hand_values() -> None:
    def onto(total: float, *w: float) -> list[float]:
        return capped(torch.tensor(w, dtype=torch.double), total).tolist()

    assert onto(1, 0.9, 0.1) == pytest.approx([0.9, 0.1])
    assert onto(2, 0.9, 0.8, 0.1, 0.0) == pytest.approx([0.95, 0.85, 0.15, 0.05])
    assert onto(2, 3.0, 2.0, 1.0, 0.0) == pytest.approx([1.0, 1.0, 0.0, 0.0])
    assert onto(3, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0) == pytest.approx([0.5] * 6)


def test_a_weight_up_to_one_is_the_nearest() -> None:
    """Optimal: the residual w - v is one number where v is inside, larger where v is 1 and smaller where it is 0."""
    w = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    v = capped(w, 11)
    assert float(v.sum()) == pytest.approx(11, abs=1e-6)
    assert torch.allclose(capped(v, 11), v, atol=1e-8)
    inside = (v > 0) & (v < 1)
    mu = (w - v)[inside].mean()
    assert torch.allclose((w - v)[inside], mu.expand(int(inside.sum())))
    assert (w - v)[v == 1].min() >= mu - 1e-9
    assert (w - v)[v == 0].max() <= mu + 1e-9


def test_shares_match_hand_values() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [2.0, 0.0, 0.0], [0.6, 0.6, 0.0], [-1.0, -1.0, -1.0], [1.0, 0.5, -3.0]], dtype=torch.double)
    expected = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3, [0.75, 0.25, 0.0]]
    assert torch.allclose(shares(rows), torch.tensor(expected, dtype=torch.double))


def test_shares_are_nearest_and_stay() -> None:
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    projected = shares(rows)
    assert torch.allclose(projected.sum(1), torch.ones(6, dtype=torch.double))
    assert (projected >= 0).all()
    assert torch.allclose(shares(projected), projected)
    for row, nearest in zip(rows, projected, strict=True):
        theta = (row - nearest)[nearest > 0]
        assert torch.allclose(theta, theta[:1].expand_as(theta))
        assert (row[nearest == 0] <= theta[0] + 1e-12).all()

"""Removal from linear models: exact for squared loss, within its bound for logistic loss; descent within its invariant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.functional.linear_models import (
    CHANGE,
    Loss,
    budget,
    derivatives,
    descend,
    fit,
    geometry,
    gradient,
    hessian,
    largest_singular_value,
    remove,
)


def data(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    return x, torch.where(x[:, 0] + 0.3 * torch.randn(n, generator=g, dtype=torch.float64) > 0, 1.0, -1.0).double()


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_derivatives_are_those_of_autograd(loss: Loss) -> None:
    z = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, -1, 1, -1, 1, 1, -1], dtype=torch.float64)
    value = (1 + (-y * z).exp()).log() if loss == "logistic" else (z - y).square() / 2
    (first,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    for ours, right in zip(derivatives(z.detach(), y, loss), (value, first, second), strict=True):
        assert torch.allclose(ours, right.detach(), atol=1e-12)


def test_the_constant_of_the_logistic_loss() -> None:
    p = torch.linspace(-6, 6, 100001, dtype=torch.float64).sigmoid()
    assert float((p * (1 - p) * (1 - 2 * p)).abs().max()) == pytest.approx(CHANGE["logistic"], rel=1e-6)


def test_fit_is_least_squares_and_sklearn() -> None:
    x, y = data(200, 6)
    noise = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ridge = np.linalg.solve((x.T @ x + 2.0 * torch.eye(6)).numpy(), (x.T @ y - noise).numpy())
    assert fit(x, y, "squared", 0.01, noise).numpy() == pytest.approx(ridge, abs=1e-12)
    from sklearn.linear_model import LogisticRegression

    known = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy()).coef_[0]
    w = fit(x, y, "logistic", 0.01, torch.zeros(6, dtype=torch.float64))
    assert w.numpy() == pytest.approx(known, abs=1e-6)
    assert float(gradient(x, y, w, "logistic", 0.01, torch.zeros(6, dtype=torch.float64)).norm()) < 1e-9


@pytest.mark.parametrize("count", [1, 10])
def test_rows_leave_the_squared_loss_exactly(count: int) -> None:
    x, y = data(200, 6)
    noise = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = fit(x, y, "squared", 0.01, noise)
    removal = remove((x[count:], y[count:]), (x[:count], y[:count]), w, "squared", 0.01)
    assert torch.allclose(removal.weights, fit(x[count:], y[count:], "squared", 0.01, noise), atol=1e-12)
    assert removal.bound == 0


def test_what_a_removal_leaves_is_within_its_bound_and_the_bounds_add_up() -> None:
    x, y = data(200, 6)
    noise = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w, total = fit(x, y, "logistic", 0.01, noise), 0.0
    for start in range(0, 30, 3):
        rest, gone = (x[start + 3 :], y[start + 3 :]), (x[start : start + 3], y[start : start + 3])
        removal = remove(rest, gone, w, "logistic", 0.01)
        w, total = removal.weights, total + removal.bound
        left = float(gradient(*rest, w, "logistic", 0.01, noise).norm())
        assert 0 < left <= total


def test_a_removal_by_hand() -> None:
    """One weight, rows 1 and 1 with targets 1 and -1: the optimum is 0, its slope there half a row."""
    x, y = torch.ones(2, 1, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    removal = remove((x[:1], y[:1]), (x[1:], y[1:]), torch.zeros(1, dtype=torch.float64), "logistic", 0.25)
    assert float(removal.weights) == pytest.approx(0.5 / (0.25 + 0.25))
    assert removal.bound == pytest.approx(1 / (6 * math.sqrt(3)))


def test_budget_and_singular_value() -> None:
    assert budget(2.0, 0.5, 1e-4) == pytest.approx(1 / math.sqrt(2 * math.log(15000)))
    x = data(30, 4)[0]
    assert largest_singular_value(x) == pytest.approx(float(np.linalg.norm(x.numpy(), 2)))
    assert torch.equal(hessian(x, x[:, 0], x[0], "squared", 0.0), x.T @ x)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_a_stream_of_deletions_stays_within_the_invariant(loss: Loss) -> None:
    x, y = data(200, 6)
    y, shape, steps = torch.stack([y, -y], 1), geometry(loss, 0.05, 2), 10
    none = torch.zeros(6, dtype=torch.float64)

    def off(w: Tensor, n: int) -> float:
        best = torch.stack([fit(x[-n:], t, loss, 0.05, none) for t in y[-n:].unbind(1)], 1)
        assert float(best.norm(dim=0).max()) <= shape.radius
        return float((w - best).norm())

    w = descend(x, y, torch.zeros(6, 2, dtype=torch.float64), loss, 0.05, shape.first_steps(steps, 200), shape)
    assert off(w, 200) <= shape.distance(steps, 200)
    for n in range(199, 169, -1):
        w = descend(x[-n:], y[-n:], w, loss, 0.05, steps, shape)
        assert off(w, n) <= shape.distance(steps, n)


def test_noise_by_hand() -> None:
    shape = geometry("logistic", 0.05, 1)
    assert shape.contraction == pytest.approx(0.25 / 0.35)
    lipschitz, left = 1 + 0.05 * math.sqrt(2 * math.log(2) / 0.05), (0.25 / 0.35) ** 20
    spread = math.sqrt(math.log(1e4) + 1) - math.sqrt(math.log(1e4))
    assert shape.deviation(20, 100, 1.0, 1e-4) == pytest.approx(4 * math.sqrt(2) * lipschitz * left / (0.05 * 100 * (1 - left) * spread))

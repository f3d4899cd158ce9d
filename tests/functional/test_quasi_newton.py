"""The L-BFGS product against the dense recursion, the secant equation, and quadratics, where it is the Hessian."""

import pytest
import torch

from expunge.functional.quasi_newton import quasi_hessian


def spd(size: int, seed: int) -> torch.Tensor:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T + torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_equals_the_dense_recursion(count: int) -> None:
    hessian, g = spd(6, 0), torch.Generator().manual_seed(1)
    steps = [torch.randn(6, generator=g, dtype=torch.float64) for _ in range(count)]
    pairs = [(s, hessian @ s + 0.1 * torch.randn(6, generator=g, dtype=torch.float64)) for s in steps]
    pairs = [(s, y) for s, y in pairs if s @ y > 0]
    s, y = pairs[-1]
    b = (y @ s) / (s @ s) * torch.eye(6, dtype=torch.float64)
    for s, y in pairs:
        b = b - torch.outer(b @ s, b @ s) / (s @ b @ s) + torch.outer(y, y) / (y @ s)
    v = torch.randn(6, generator=g, dtype=torch.float64)
    assert torch.allclose(quasi_hessian(pairs)(v), b @ v, atol=1e-13, rtol=1e-13)
    assert torch.allclose(quasi_hessian(pairs)(pairs[-1][0]), pairs[-1][1], atol=1e-12), "the newest pair is met exactly"


def test_one_dimension_is_the_slope() -> None:
    s, y = torch.tensor([2.0], dtype=torch.float64), torch.tensor([6.0], dtype=torch.float64)
    assert float(quasi_hessian([(s, y)])(torch.tensor([5.0], dtype=torch.float64))) == pytest.approx(15.0)

"""Conjugate gradients against a direct solver."""

import pytest
import torch

from expunge.functional.conjugate_gradients import damped, solve


def system(seed: int = 0, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return a @ a.T + 0.1 * torch.eye(size, dtype=torch.float64), torch.randn(size, generator=generator, dtype=torch.float64)


def test_solution_is_that_of_a_direct_solver() -> None:
    a, b = system()
    solution = solve(lambda v: a @ v, b, tolerance=1e-12)
    assert torch.allclose(solution.x, torch.linalg.solve(a, b), atol=1e-9)
    assert solution.residual <= 1e-12


def test_as_many_products_as_unknowns_are_enough() -> None:
    a, b = system()
    assert solve(lambda v: a @ v, b, tolerance=0, iterations=6).residual < 1e-6
    assert solve(lambda v: a @ v, b, tolerance=0, iterations=3).residual > 1e-3


def test_zero_right_hand_side_needs_no_product() -> None:
    solution = solve(lambda v: pytest.fail("asked"), torch.zeros(3))
    assert solution.x.tolist() == [0, 0, 0]
    assert solution.residual == 0


def test_damping_stays_where_the_matrix_is_positive() -> None:
    a, b = system()
    solution, d = damped(lambda v: a @ v, b, 0.5, tolerance=1e-12)
    assert d == 0.5
    assert torch.allclose(solution.x, torch.linalg.solve(a + 0.5 * torch.eye(6, dtype=torch.float64), b), atol=1e-9)


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_damping_grows_until_the_matrix_is_positive(start: float) -> None:
    a, b = torch.diag(torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)), torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    solution, d = damped(lambda v: a @ v, b, start, tolerance=1e-12)
    assert d > 2
    assert torch.allclose(solution.x, b / (a.diagonal() + d), atol=1e-9)

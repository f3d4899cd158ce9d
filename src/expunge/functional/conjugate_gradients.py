"""Conjugate gradients: solve A x = b from products with A alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What conjugate gradients end in."""

    x: Tensor  # (n,)
    lowest: float  # the smallest curvature v^T A v / v^T v of the directions that were tried; infinity where none was
    residual: float  # |b - A x| / |b|


def solve(product: Callable[[Tensor], Tensor], b: Tensor, tolerance: float = 1e-6, iterations: int = 100) -> Solution:
    """Solve A x = b for a symmetric positive definite A.

    Args:
        product: A times a vector, (n,) -> (n,).
        b: (n,).
        tolerance: of the residual, as a share of the length of b.
        iterations: products at most.

    Returns:
        The solution. It ends early at a direction without positive curvature, which `lowest` tells; A is then not positive definite.
    """
    x, residual = torch.zeros_like(b), b.clone()
    direction, square, lowest = residual.clone(), residual @ residual, torch.inf
    size = float(square.sqrt())
    for _ in range(iterations):
        if float(square.sqrt()) <= tolerance * size:
            break
        image = product(direction)
        curvature = direction @ image
        lowest = min(lowest, float(curvature / (direction @ direction)))
        if lowest <= 0:
            break
        share = square / curvature
        x, residual = x + share * direction, residual - share * image
        square, before = residual @ residual, square
        direction = residual + square / before * direction
    return Solution(x, lowest, float(square.sqrt()) / size if size else 0.0)


def damped(
    product: Callable[[Tensor], Tensor], b: Tensor, damping: float, tolerance: float = 1e-6, iterations: int = 100
) -> tuple[Solution, float]:
    """Solve (A + d I) x = b, with a damping d that grows until no direction with negative curvature is met.

    Args:
        product: A times a vector, (n,) -> (n,).
        b: (n,).
        damping: the first d, 0 or more.
        tolerance, iterations: as in `solve`.

    Returns:
        The solution, and the damping that it has.
    """
    while True:
        d = damping
        solution = solve(lambda v, d=d: product(v) + d * v, b, tolerance, iterations)  # type: ignore[misc]
        if solution.lowest > 0:
            return solution, damping
        damping = max(3 * damping, damping - 1.5 * solution.lowest, torch.finfo(b.dtype).eps)

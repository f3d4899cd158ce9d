"""Projections onto simplexes: shares that sum to one, and weights up to one that sum to a number."""

from __future__ import annotations

import torch
from torch import Tensor


def capped(w: Tensor, total: float) -> Tensor:
    """Project a vector onto the vectors with entries from 0 to 1 and a given sum: clip(w - mu), with mu by bisection.

    Args:
        w: (n,).
        total: sum of the result's entries, from 0 to n.

    Returns:
        The nearest such vector, (n,).
    """
    low, high = w.min() - 1, w.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (w - middle).clamp(0, 1).sum() > total else (low, middle)
    return (w - high).clamp(0, 1)


def shares(rows: Tensor) -> Tensor:
    """Project each row onto the vectors that are nowhere negative and sum to one.

    Args:
        rows: (rows, n).

    Returns:
        The nearest such vectors, (rows, n).
    """
    falling = rows.sort(1, descending=True).values
    excess = falling.cumsum(1) - 1
    place = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    kept = (falling * place > excess).sum(1, keepdim=True)  # entries that stay above zero
    return (rows - excess.gather(1, kept - 1) / kept).clamp(min=0)

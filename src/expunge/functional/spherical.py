"""Interpolation on a sphere."""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 1e-4  # sines below it: the directions are the same or opposite, and have no arc between them


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """A point on the arc from one tensor to another: sin((1 - s) w) / sin w a + sin(s w) / sin w b.

    Args:
        a, b: of one shape; w is the angle between them as flat vectors. Their norms play no part in it.
        share: s, from 0 (a) to 1 (b).

    Returns:
        Of the same shape; on the straight line where the two are parallel.
    """
    if share in (0, 1):
        return b if share else a
    x, y = a.flatten().double(), b.flatten().double()
    w = torch.arccos(((x / x.norm()) @ (y / y.norm())).clamp(-1, 1))
    if w.sin() < NEAR or not w.isfinite():
        return a + share * (b - a)
    of_a, of_b = torch.sin((1 - share) * w) / w.sin(), torch.sin(share * w) / w.sin()
    return of_a.to(a.dtype) * a + of_b.to(b.dtype) * b

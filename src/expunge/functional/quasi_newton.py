"""Quasi-Newton curvature: a matrix that is known by how gradients changed along a few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


def quasi_hessian(pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
    """The product with the L-BFGS approximation of a Hessian.

    B <- B - B s s'B / (s'B s) + y y' / (y's) for each pair (s, y), oldest first, from B = (y's / s's) I with the newest pair.

    Source: Byrd, Nocedal and Schnabel 1994; as DeltaGrad, Wu et al. 2020, arXiv 2006.14755, uses it.

    Args:
        pairs: a step s and the change y of the gradient along it, both (weights,), with y's > 0; oldest first, at least one.

    Returns:
        A function from a vector, (weights,), to its product with B, (weights,).
    """
    newest_s, newest_y = pairs[-1]
    scale = (newest_y @ newest_s) / (newest_s @ newest_s)
    terms: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # B s, s'B s, y, y's

    def product(v: Tensor) -> Tensor:
        result = scale * v
        for bs, sbs, y, ys in terms:
            result = result - bs * ((bs @ v) / sbs) + y * ((y @ v) / ys)
        return result

    for s, y in pairs:
        bs = product(s)
        terms.append((bs, s @ bs, y, y @ s))
    return product

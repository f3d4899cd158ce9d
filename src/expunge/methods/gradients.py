"""Shared code of updates: gradients of one role, gradients taken as one vector, and temporary moves of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.core.parts import GradCall, Grads
from expunge.engine.distributed.sharding import whole
from expunge.engine.gradient import global_norm

Gradient = tuple[Tensor, list[Tensor]]  # a value and its gradient, a tensor for each parameter


def total(parts: Sequence[Gradient]) -> Gradient:
    """The sum of values and the sum of gradients."""
    values, gradients = zip(*parts, strict=True)
    return sum(values[1:], values[0]), [sum(tensors[1:], tensors[0]) for tensors in zip(*gradients, strict=True)]


def on_role(grads: Grads, role: str, own: Callable[[], Gradient]) -> GradCall:
    """Replace the gradient of one role.

    Args:
        grads: the gradients to change.
        role: the role to replace.
        own: returns value and gradient of this role.

    Returns:
        A call that takes this role from `own` and all other roles together from `grads`.
    """

    def call(*roles: str) -> Gradient:
        remaining = [r for r in roles if r != role]
        return total([*([own()] if role in roles else []), *([grads(*remaining)] if remaining else [])])

    return call


def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product of two lists of tensors, each taken as one vector."""
    return torch.stack([whole((x * y).sum()) for x, y in zip(a, b, strict=True)]).sum()


def unit(vector: list[Tensor]) -> list[Tensor]:
    """A list of tensors, taken as one vector, scaled to length 1; a zero vector stays zero."""
    length = global_norm(vector).clamp_min(1e-12)
    return [x / length for x in vector]


@contextmanager
def moved(params: Sequence[Tensor], by: Iterable[Tensor]) -> Iterator[None]:
    """Move weights temporarily. Afterwards a copy restores them, because adding and subtracting would leave rounding errors.

    Args:
        params: the weights, which move in place.
        by: the step of each weight, of its shape.

    Raises:
        UserError: when weights have 16 bits, where small moves are lost.
    """
    if any(p.element_size() < 4 for p in params):
        raise UserError(
            "weights of 16 bits are too coarse for small moves: load the model in float32 (--precision bf16 still computes in 16 bits)"
        )
    originals = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            for p, step in zip(params, by, strict=True):
                p.add_(step)
        yield
    finally:
        with torch.no_grad():
            for p, original in zip(params, originals, strict=True):
                p.copy_(original)

"""What updates share: the gradient of one role, gradients as one vector, weights that are elsewhere for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.core.parts import GradCall, Grads
from expunge.engine.distributed.sharding import whole
from expunge.engine.gradient import global_norm

Gradient = tuple[Tensor, list[Tensor]]  # with the value of what it is the gradient of


def total(answers: Sequence[Gradient]) -> Gradient:
    """Values and gradients, added up."""
    values, gradients = zip(*answers, strict=True)
    return sum(values[1:], values[0]), [sum(parts[1:], parts[0]) for parts in zip(*gradients, strict=True)]


def on_role(grads: Grads, role: str, own: Callable[[], Gradient]) -> GradCall:
    """Gradients in which `own` answers for one role; the others are asked as they were, all at once."""

    def call(*roles: str) -> Gradient:
        rest = [r for r in roles if r != role]
        return total([*([own()] if role in roles else []), *([grads(*rest)] if rest else [])])

    return call


def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product of two lists of tensors taken as two vectors."""
    return torch.stack([whole((x * y).sum()) for x, y in zip(a, b, strict=True)]).sum()


def unit(vector: list[Tensor]) -> list[Tensor]:
    """The direction of a list of tensors taken as one vector; one of no length stays so."""
    length = global_norm(vector).clamp_min(1e-12)
    return [x / length for x in vector]


@contextmanager
def moved(params: Sequence[Tensor], by: Iterable[Tensor]) -> Iterator[None]:
    """Weights that are elsewhere for a moment. They come back as a copy: what was added, subtracted again, would leave rounding behind.

    Errors: UserError for weights of 16 bits, in which such a move is lost.
    """
    if any(p.element_size() < 4 for p in params):
        raise UserError(
            "weights of 16 bits are too coarse for small moves: load the model in float32 (--precision bf16 still computes in 16 bits)"
        )
    kept = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            for p, step in zip(params, by, strict=True):
                p.add_(step)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(params, kept, strict=True):
                p.copy_(old)

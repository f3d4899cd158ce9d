"""Estimators over whole sets that more than one part, metric or attack wants."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .parts import Answer, Modality, Rows
from .step import evaluating


def example_gradients(
    model: nn.Module, port: Modality, rows: Rows, read: Callable[[list[Tensor]], Tensor], loss: Callable[[Answer], Tensor]
) -> Tensor:
    """Something read from the gradient of each row alone, in evaluation mode.

    read: gradients of all parameters (tied ones once) -> tensor. loss: answer to one row -> scalar. Returns (rows, ...). The modes of the
    model are as before.
    """
    params = list(model.parameters())
    flags = [p.requires_grad for p in params]
    out = []
    try:
        for p in params:
            p.requires_grad_(p.is_floating_point())
        with evaluating(model), torch.enable_grad():
            for i in range(len(rows)):
                model.zero_grad(set_to_none=True)
                torch.autograd.backward(loss(port.forward(model, [rows.take([i])])[0]))
                out.append(read([p.grad if p.grad is not None else torch.zeros_like(p) for p in params]).detach().cpu())
    finally:
        model.zero_grad(set_to_none=True)
        for p, flag in zip(params, flags, strict=True):
            p.requires_grad_(flag)
    return torch.stack(out) if out else torch.zeros(0)


def mean_norm(grads: list[Tensor], order: float = 2.0) -> Tensor:
    """Mean over tensors of each one's norm (not the global norm)."""
    return torch.stack([torch.linalg.vector_norm(g.float(), order) for g in grads]).mean()

"""Gradients with respect to which tokens stand at some places of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import OneSequence, require
from expunge.core.modality import Modality
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.engine.run_state import evaluating


def token_gradients(model: nn.Module, modality: Modality, rows: Rows, length: int, starts: Sequence[int] | None = None) -> Tensor:
    """The gradient of the mean loss of rows with respect to one-hot vectors of some tokens of their prompts.

    Args:
        model: a causal language model of `transformers`.
        rows: rows whose prompts have the same tokens somewhere.
        length: how many.
        starts: where they begin in each prompt; default: they are the last ones.

    Returns:
        (length, classes), in float32: how the loss changes, to first order, as a place moves from nothing to a token.
    """
    require(modality, OneSequence)
    embedding: Any = base_of(model).get_input_embeddings()
    leaves: list[Tensor] = []

    def detach(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        leaves.append(out.detach().requires_grad_())
        return leaves[-1]

    handle = embedding.register_forward_hook(detach)
    try:
        with evaluating(model), torch.enable_grad():
            loss = -modality.forward(model, [rows])[0].target_logp.mean().mean()
            (gradient,) = torch.autograd.grad(loss, leaves[-1])
    finally:
        handle.remove()
    first = starts if starts is not None else [len(prompt) - length for prompt in rows["prompt"]]
    at_places = sum(gradient[i, start : start + length].float() for i, start in enumerate(first))
    return torch.as_tensor(at_places) @ embedding.weight.detach().float().T

"""Add embeddings for new tokens to a language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.adapters import base_of


def vectors(model: nn.Module) -> list[Tensor]:
    """The matrices with a row for each token: the input embeddings, and the output embeddings unless they are tied to the input."""
    base: Any = base_of(model)
    weights = [m.weight for m in (base.get_input_embeddings(), base.get_output_embeddings()) if m is not None]
    return weights[:1] if len(weights) > 1 and weights[0] is weights[1] else weights


def known_tokens(model: nn.Module) -> int:
    """How many tokens the model can read and predict."""
    return min(len(weight) for weight in vectors(model))


def widen(model: nn.Module, size: int, seed: int = 0) -> None:
    """Enlarge the embeddings of a model to `size` tokens, if they have fewer.

    New vectors are drawn from the normal distribution with the mean and standard deviation of the old vectors.
    """
    base: Any = base_of(model)
    old_size = base.get_input_embeddings().weight.shape[0]
    if size <= old_size:
        return
    base.resize_token_embeddings(size, mean_resizing=False)
    base.widened = True  # an adapter must then save these vectors
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in vectors(model):
            old = weight[:old_size].float()
            drawn = torch.randn(size - old_size, weight.shape[1], generator=generator).to(weight.device)
            weight[old_size:] = (old.mean(0) + old.std(0) * drawn).to(weight.dtype)

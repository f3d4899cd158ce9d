"""A place for new tokens in a language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.adapters import base_of


def vectors(model: nn.Module) -> list[Tensor]:
    """The matrices with a row for each token: of the input, and of the output where that is another."""
    base: Any = base_of(model)
    found = [m.weight for m in (base.get_input_embeddings(), base.get_output_embeddings()) if m is not None]
    return found[:1] if len(found) > 1 and found[0] is found[1] else found


def widen(model: nn.Module, size: int, seed: int = 0) -> None:
    """Give a model room for so many tokens, if it has less; new vectors are drawn by the seed, scattered as the others are."""
    base: Any = base_of(model)
    before = base.get_input_embeddings().weight.shape[0]
    if size <= before:
        return
    base.resize_token_embeddings(size, mean_resizing=False)
    base.widened = True  # an adapter must then bring these vectors with it
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in vectors(model):
            old = weight[:before].float()
            drawn = torch.randn(size - before, weight.shape[1], generator=generator).to(weight.device)
            weight[before:] = (old.mean(0) + old.std(0) * drawn).to(weight.dtype)

"""Weights of a model by name: look, copy, put back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from expunge.core.modality import Weights
from expunge.engine.distributed.sharding import like


def tensors_of(model: nn.Module) -> Weights:
    """Parameters (tied ones once) and buffers by name, not copied; buffers that are no weights (`persistent=False`) are left out."""
    every = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    return {**dict(model.named_parameters()), **{n: t for n, t in model.state_dict().items() if n not in every}}


@torch.no_grad()
def weights_of(model: nn.Module, names: frozenset[str] | None = None) -> Weights:
    """A copy of what `tensors_of` names, or of some of it."""
    return {n: t.detach().clone() for n, t in tensors_of(model).items() if names is None or n in names}


@torch.no_grad()
def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers by name."""
    own = model.state_dict()
    for name, value in weights.items():
        own[name].copy_(like(value, own[name]))


def trainable(model: nn.Module) -> frozenset[str]:
    """Names of what a stage can change: parameters that move, and buffers."""
    return frozenset(n for n, t in tensors_of(model).items() if t.requires_grad or not isinstance(t, nn.Parameter))

"""Read, copy and set the weights of a model by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expunge.core.modality import Weights
from expunge.engine.distributed.sharding import like


def tensors_of(model: nn.Module) -> Weights:
    """Parameters (tied ones once) and persistent buffers by name, not copied."""
    parameter_names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    return {**dict(model.named_parameters()), **{n: t for n, t in model.state_dict().items() if n not in parameter_names}}


@torch.no_grad()
def weights_of(model: nn.Module, names: frozenset[str] | None = None) -> Weights:
    """Copies of the tensors of `tensors_of`: all of them, or those with the given names."""
    return {n: t.detach().clone() for n, t in tensors_of(model).items() if names is None or n in names}


@torch.no_grad()
def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers by name. Tensors that are not named stay as they are."""
    state = model.state_dict()
    for name, value in weights.items():
        state[name].copy_(like(value, state[name]))


@contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Other weights inside the block, by name, and afterwards the model's own, bit for bit."""
    own = weights_of(model, frozenset(weights)) if weights else {}
    try:
        if weights:
            put(model, weights)
        yield
    finally:
        if own:
            put(model, own)


def trainable(model: nn.Module) -> frozenset[str]:
    """Names of the tensors that a stage can change: trainable parameters and buffers."""
    return frozenset(n for n, t in tensors_of(model).items() if t.requires_grad or not isinstance(t, nn.Parameter))

"""Memory of forward passes: what a position takes, and how many positions fit into what the user allows.

A pass without gradients holds about twice the outputs of the linear layers of one block, and one with gradients about twice those of all
blocks. These are estimates, which `performance.memory` compares with peaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.engine.adapters import base_of
from expunge.engine.blocks import block_paths
from expunge.engine.estimators.layers import linear, transposed

COPIES = 2  # of the outputs of linear layers: norms, activations and rotations hold as much again
LOGITS = 4  # copies of the logits, in float32
ANSWERS = 128  # answers that are generated at a time, unless fewer fit
UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

_room: ContextVar[int] = ContextVar("room", default=0)  # bytes that a pass may take; 0: any number


def parse(text: str) -> int:
    """The bytes of a text like '4GB', '512 MiB' or '1.5G'. Raises: UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if not match or not float(match[1]):
        raise UserError(f"{text!r} is no amount of memory: give a number with a unit, such as 4GB or 512MB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** UNITS[match[2]])


def in_use(model: nn.Module) -> int:
    """Bytes in use now: on the GPU of the model, or else by this process."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    import psutil  # which accelerate brings along

    return int(psutil.Process().memory_info().rss)


@contextmanager
def bounded(room: int) -> Iterator[None]:
    """Let no pass inside the block take more than `room` bytes, as far as the estimates go; 0: no bound."""
    before = _room.set(room)
    try:
        yield
    finally:
        _room.reset(before)


def fitting(most: int, each: int) -> int:
    """How many positions (rows, logits) of `each` bytes a pass may hold: `most`, or as many as fit, and at least one."""
    return max(1, min(most, _room.get() // max(1, each))) if _room.get() else most


def position_bytes(model: nn.Module, gradients: bool = False) -> int:
    """What a position takes in a forward pass through the blocks of a model; gradients: the pass keeps what a backward pass needs."""
    head = _head(model)
    layers = [m for m in model.modules() if linear(m) and m is not head]
    weights: list[Any] = [m.weight for m in layers]
    outputs = sum(w.shape[transposed(m)] * w.element_size() for m, w in zip(layers, weights, strict=True))
    return COPIES * outputs // (1 if gradients else max(1, len(block_paths(model))))


def logits_bytes(model: nn.Module) -> int:
    """What the logits of a position take; 0 for a model without a head for its vocabulary."""
    head: Any = _head(model)
    return LOGITS * 4 * len(head.weight) if head is not None else 0


def answer_bytes(model: nn.Module, prompt: int, length: int) -> int:
    """What a generated answer takes: the pass over its prompt, and the keys and values of all tokens, once more while they grow.

    Args:
        prompt, length: tokens of prompt and answer.
    """
    embeddings: Any = getattr(base_of(model), "get_input_embeddings", lambda: None)()
    width = 0 if embeddings is None else embeddings.weight.shape[1] * embeddings.weight.element_size()
    cache = 2 * (len(block_paths(model)) + 1) * width
    return prompt * position_bytes(model) + (prompt + length) * cache + logits_bytes(model)


def answers(model: nn.Module, prompt: int, length: int) -> int:
    """How many answers are generated at a time. prompt, length: tokens of prompt and answer at most."""
    return fitting(ANSWERS, answer_bytes(model, prompt, length)) if _room.get() else ANSWERS


def _head(model: nn.Module) -> nn.Module | None:
    head: nn.Module | None = getattr(base_of(model), "get_output_embeddings", lambda: None)()
    return head

"""Simulated quantization: tensors rounded to a few bits and back, as if stored as integers and scales."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def step(absmax: Tensor, bits: int) -> Tensor:
    """Distance between neighboring levels of a symmetric grid -2^(b-1) ... 2^(b-1)-1 that reaches the absolute value `absmax`; never 0."""
    return (absmax / (2.0 ** (bits - 1) - 0.5)).clamp_min(torch.finfo(torch.float32).eps)


def weights(w: Tensor, bits: int, group: int = 0) -> Tensor:
    """Round weights to the nearest level of a symmetric grid. No weight moves by more than half a step.

    Args:
        w: (outputs, inputs).
        bits: bits of a level.
        group: number of consecutive inputs of an output that share a scale; 0: all inputs of an output; the last group may be shorter.

    Returns:
        The rounded weights in float32, (outputs, inputs).
    """
    outputs, inputs = w.shape
    size = min(group, inputs) if group else inputs
    groups = F.pad(w.float(), (0, -inputs % size)).view(outputs, -1, size)  # zeros change no maximum
    width = step(groups.abs().amax(-1, keepdim=True), bits)
    levels = (groups / width).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (levels * width).view(outputs, -1)[:, :inputs]


def activations(x: Tensor, bits: int, dims: tuple[int, ...] = (-1,)) -> Tensor:
    """Round activations to the nearest level of a grid with a zero point.

    Args:
        x: activations.
        bits: bits of a level.
        dims: dimensions along which values share a scale, which covers their range and 0.

    Returns:
        The rounded activations, of the shape and type of x.
    """
    low, high = x.float().amin(dims, keepdim=True).clamp_max(0), x.float().amax(dims, keepdim=True).clamp_min(0)
    highest = 2.0**bits - 1
    width = ((high - low) / highest).clamp_min(torch.finfo(torch.float32).eps)
    zero = (-low / width).round().clamp(0, highest)
    levels = ((x / width).round() + zero).clamp(0, highest)
    return ((levels - zero) * width).to(x.dtype)

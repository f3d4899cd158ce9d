"""Numbers rounded to few bits and back: what is left of a tensor once it has been stored as whole numbers and scales."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def step(absmax: Tensor, bits: int) -> Tensor:
    """Distance of two levels of a symmetric grid -2^(b-1) ... 2^(b-1)-1 that reaches the absolute value `absmax`; never 0."""
    return (absmax / (2.0 ** (bits - 1) - 0.5)).clamp_min(torch.finfo(torch.float32).eps)


def weights(w: Tensor, bits: int, group: int = 0) -> Tensor:
    """Round to nearest, symmetric: w (outputs, inputs) with one scale for every `group` consecutive inputs of an output, in float32.

    group: 0 is one scale an output; the last group of an output may be shorter. No weight moves by more than half a step.
    """
    outputs, inputs = w.shape
    size = min(group, inputs) if group else inputs
    cut = F.pad(w.float(), (0, -inputs % size)).view(outputs, -1, size)  # zeros move no maximum
    width = step(cut.abs().amax(-1, keepdim=True), bits)
    whole = (cut / width).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (whole * width).view(outputs, -1)[:, :inputs]


def activations(x: Tensor, bits: int, dims: tuple[int, ...] = (-1,)) -> Tensor:
    """Round to nearest, with a zero point: one scale for all values along `dims`, from their range with 0 in it."""
    low, high = x.float().amin(dims, keepdim=True).clamp_max(0), x.float().amax(dims, keepdim=True).clamp_min(0)
    levels = 2.0**bits - 1
    width = ((high - low) / levels).clamp_min(torch.finfo(torch.float32).eps)
    zero = (-low / width).round().clamp(0, levels)
    whole = ((x / width).round() + zero).clamp(0, levels)
    return ((whole - zero) * width).to(x.dtype)

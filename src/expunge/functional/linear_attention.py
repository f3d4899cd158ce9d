"""Attention whose cost is linear in the number of tokens: keys and values are summed once, and each query reads the sum.

Source: LINA (arXiv 2601.22630): division is what it uses, subtraction what it compares with. All functions take queries, keys and values
of shape (..., tokens, width of a head) and return the same shape in the type of the values; they compute in float32, or in float64 where
the inputs are, since half precision gives values that are not numbers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

LEAST = 1e-6  # added to each coordinate of a feature, and to each normalizer


def positive(x: Tensor) -> Tensor:
    """Features of queries and keys for division: max(x, 0) + 1e-6, so that no token has weight zero.

    Args:
        x: queries or keys, of any shape.

    Returns:
        The same shape, all positive.
    """
    return exact(x).relu() + LEAST


def division(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each output is the mean of the values, weighted by q.k and divided by the sum of these weights (plus 1e-6 of its mean).

    o_i = q_i (1/N sum_j k_j^T v_j) / (q_i . mean_j k_j + 1e-6). The N of both means cancels.

    Args:
        q: features of the queries, not negative, (..., N, width).
        k: features of the keys, not negative, likewise.
        v: values, likewise.

    Returns:
        (..., N, width)
    """
    with _as_it_is(q.device.type):
        keys, values, queries = exact(k), exact(v), exact(q)
        summed = keys.transpose(-2, -1) @ values / k.shape[-2]
        total = (queries * keys.mean(-2, keepdim=True)).sum(-1, keepdim=True) + LEAST
        mixed: Tensor = queries @ summed / total
        return mixed.to(v.dtype)


def subtraction(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each output is a sum of the values whose weights add to 1 by subtraction, so that some may be negative.

    o_i = q_i (s/N sum_j k_j^T v_j) + (1 - s q_i . mean_j k_j) mean_j v_j, s = 1 / sqrt(width).

    Args:
        q: features of the queries, max(x, 0), (..., N, width).
        k: features of the keys, likewise.
        v: values, likewise.

    Returns:
        (..., N, width)
    """
    with _as_it_is(q.device.type):
        keys, values, queries = exact(k), exact(v), exact(q) * q.shape[-1] ** -0.5
        summed = keys.transpose(-2, -1) @ values / k.shape[-2]
        rest = 1 - (queries * keys.mean(-2, keepdim=True)).sum(-1, keepdim=True)
        mixed: Tensor = queries @ summed + rest * values.mean(-2, keepdim=True)
        return mixed.to(v.dtype)


def exact(x: Tensor) -> Tensor:
    """In float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def _as_it_is(device: str) -> AbstractContextManager[Any]:
    """Mixed precision would round the sums."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()

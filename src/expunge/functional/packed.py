"""Tensor functions of packed answers: positions of many rows one behind the other, with the row of each."""

from __future__ import annotations

import torch
from torch import Tensor


def places(row: Tensor, lengths: Tensor) -> Tensor:
    """The place of each position in its own row, from 0. row: (positions,), ascending; lengths: (rows,)."""
    return torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]


def lowered(scores: Tensor, labels: Tensor, by: float) -> Tensor:
    """Probabilities after the score of the label was lowered; by infinity: the label is out of the choice.

    scores: (positions, classes), before the softmax or after a log-softmax; labels: (positions,).
    """
    at = labels[:, None]
    return scores.scatter(-1, at, scores.gather(-1, at) - by).softmax(-1)


def kl(p: Tensor, q: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(p || q) at each position, (positions,), of distributions that a temperature makes flatter.

    p, q: (positions, classes), before the softmax or after a log-softmax.
    """
    old, new = ((x / temperature).log_softmax(-1) for x in (p, q))
    return (old.exp() * (old - new)).sum(-1)

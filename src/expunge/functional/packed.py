"""Tensor functions of packed outputs: the positions of many rows concatenated, with the row index of each position."""

from __future__ import annotations

import torch
from torch import Tensor


def places(row: Tensor, lengths: Tensor) -> Tensor:
    """The index of each position within its own row, from 0.

    Args:
        row: row of each position, (positions,), ascending.
        lengths: number of positions of each row, (rows,).

    Returns:
        Indices, (positions,).
    """
    return torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]


def lowered(scores: Tensor, labels: Tensor, by: float) -> Tensor:
    """Probabilities after lowering the score of the label.

    Args:
        scores: logits or log-probabilities, (positions, classes).
        labels: class indices, (positions,).
        by: decrease of the label's score in nats; infinity gives the label probability 0.

    Returns:
        Probabilities, (positions, classes).
    """
    index = labels[:, None]
    return scores.scatter(-1, index, scores.gather(-1, index) - by).softmax(-1)


def kl(p: Tensor, q: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(p || q) at each position, after a temperature flattens both distributions.

    Args:
        p: logits or log-probabilities, (positions, classes).
        q: logits or log-probabilities, (positions, classes).
        temperature: divisor of the scores.

    Returns:
        KL in nats, (positions,).
    """
    log_p, log_q = ((scores / temperature).log_softmax(-1) for scores in (p, q))
    return (log_p.exp() * (log_p - log_q)).sum(-1)

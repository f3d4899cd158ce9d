"""The margin of a class: by how much its score exceeds the log-sum-exp of all other scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def margin(scores: Tensor, labels: Tensor) -> Tensor:
    """The scaled logit phi = s_y - log sum_{j != y} exp s_j = log(p_y / (1 - p_y)), finite even where p_y rounds to 0 or 1.

    Source: Carlini et al. 2022, arXiv 2112.03570.

    Args:
        scores: logits or log-probabilities, (..., classes).
        labels: class indices, (...).

    Returns:
        The margin in nats, (...).

    Raises:
        ValueError: when there are fewer than two classes.
    """
    if scores.shape[-1] < 2:
        raise ValueError("a margin compares a class with other classes, and there is no other: give scores of at least two classes")
    others = scores.masked_fill(one_hot(labels, scores.shape[-1]).bool(), -torch.inf).logsumexp(-1)
    return scores.gather(-1, labels[..., None])[..., 0] - others

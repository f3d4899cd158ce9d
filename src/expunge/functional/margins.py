"""The margin of a class: by how much its score beats all others together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def margin(scores: Tensor, labels: Tensor) -> Tensor:
    """The scaled logit phi = s_y - log sum_{j != y} exp s_j = log(p_y / (1 - p_y)), (...), finite also where p_y rounds to 0 or 1.

    scores: (..., classes), before the softmax or after a log-softmax. labels: (...). Errors: ValueError for fewer than two classes.
    Source: Carlini et al. 2022, arXiv 2112.03570.
    """
    if scores.shape[-1] < 2:
        raise ValueError("a margin is one over other classes, and there is no other")
    others = scores.masked_fill(one_hot(labels, scores.shape[-1]).bool(), -torch.inf).logsumexp(-1)
    return scores.gather(-1, labels[..., None])[..., 0] - others

"""Shares of the members of a mixture under which observations are the likeliest."""

from __future__ import annotations

import torch
from torch import Tensor


def mixture_shares(log_probs: Tensor, rounds: int = 500, tolerance: float = 1e-8) -> Tensor:
    """The shares a of fixed distributions p_k that maximize sum over x of log sum_k a_k p_k(x), by expectation maximization.

    The likelihood is concave in the shares, so there is one maximum, and no step lowers it.

    Args:
        log_probs: of each observation under each distribution, (distributions, observations).
        rounds: at most.
        tolerance: it ends once no share changes by more.

    Returns:
        Shares that sum to 1, (distributions,), in float64. Source: Dempster, Laird and Rubin 1977.
    """
    logs = log_probs.double()
    shares = torch.full((len(logs),), 1 / len(logs), dtype=torch.float64)
    for _ in range(rounds):
        renewed = (logs + shares.log()[:, None]).softmax(0).mean(1)
        change, shares = float((renewed - shares).abs().max()), renewed
        if change <= tolerance:
            break
    return shares

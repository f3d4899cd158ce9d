"""Policy gradients on sampled answers: advantages, clipped ratios, an estimate of a KL divergence, and the weights of means.

A group holds the answers that were sampled to one prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 60.0  # of a log-ratio, so that its exponential is finite; nothing near it occurs in a sound run


def group_advantages(rewards: Tensor, eps: float, scale: bool = True) -> Tensor:
    """Rewards relative to their group, as in GRPO.

    Args:
        rewards: (groups, samples), two samples or more.
        eps: added to the deviation of each group, which is unbiased.
        scale: divide by the deviation.

    Returns:
        Advantages, (groups, samples), exactly 0 in a group of equal rewards.
    """
    centered = rewards - rewards.mean(1, keepdim=True)
    advantages = centered / (rewards.std(1, keepdim=True) + eps) if scale else centered
    return torch.where(varied(rewards)[:, None], advantages, torch.zeros_like(rewards))


def varied(rewards: Tensor) -> Tensor:
    """Whether a group, a row of (groups, samples), has different rewards, (groups,)."""
    return rewards.amax(1) > rewards.amin(1)


def whitened_returns(rewards: Tensor, lengths: Tensor, eps: float, scale: bool = True) -> Tensor:
    """Returns without discount, whitened over all tokens of a batch, as in REINFORCE++: an answer counts as often as it has tokens.

    Args:
        rewards: (answers,).
        lengths: tokens of each answer, (answers,).
        eps: added to the unbiased variance.
        scale: divide by the deviation.

    Returns:
        The advantage of each token of an answer, (answers,), exactly 0 where all rewards are equal.
    """
    if not varied(rewards[None]):
        return torch.zeros_like(rewards)
    weights, total = lengths.to(rewards.dtype), lengths.sum()
    centered = rewards - (rewards * weights).sum() / total
    variance = (centered.square() * weights).sum() / (total - 1)
    return centered * (variance + eps).rsqrt() if scale else centered


def clipped_loss(log_ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float = 0.0) -> Tensor:
    """The loss of PPO at each token: max(-A r, -A clip(r, 1 - low, 1 + high)).

    Args:
        log_ratio: log r, the log-probability of a token under the model less that under which it was sampled, (tokens,), in nats.
        advantage: A, (tokens,).
        low: how far a ratio may fall below 1 before it gives no gradient.
        high: how far it may rise above 1, likewise.
        dual: the dual clip: where A < 0, the loss is at most -dual A; 0: no such limit.

    Returns:
        The loss of each token, (tokens,).
    """
    ratio = log_ratio.clamp(-LARGEST, LARGEST).exp()
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))
    return torch.where(advantage < 0, torch.minimum(loss, -dual * advantage), loss) if dual else loss


def low_variance_kl(reference_logp: Tensor, logp: Tensor, cap: float = 0.0) -> Tensor:
    """An estimate of KL(model || reference) from tokens that the model sampled: exp(d) - d - 1 with d = log p_ref - log p.

    It is never negative, and has no bias in expectation over the model's own samples (the estimator k3 of Schulman).

    Args:
        reference_logp: log p_ref, (tokens,), in nats.
        logp: log p, (tokens,), in nats.
        cap: largest value, beyond which there is no gradient; 0: none.

    Returns:
        The estimate at each token, (tokens,).
    """
    d = (reference_logp - logp).clamp_max(LARGEST)
    value = d.exp() - d - 1
    return value.clamp_max(cap) if cap else value


def piece_weights(lengths: Tensor, size: int = 0) -> Tensor:
    """Weights w of answers, for which the mean over answers of w times the sum over tokens is a mean of token means.

    Args:
        lengths: tokens of each answer, (answers,).
        size: answers in a piece. Within a piece all tokens count alike, and so do the pieces; 1: every answer counts alike; 0: all answers
            are one piece.

    Returns:
        (answers,) in double precision.
    """
    pieces = torch.arange(len(lengths)) // (size or max(1, len(lengths)))
    totals = torch.zeros(int(pieces[-1]) + 1 if len(pieces) else 0, dtype=torch.double).index_add(0, pieces, lengths.double())
    return len(lengths) / (len(totals) * totals.clamp_min(1)[pieces]) if len(pieces) else totals

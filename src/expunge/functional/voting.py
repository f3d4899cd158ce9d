"""How the members of an ensemble answer together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def mean_of_softmax(logits: Sequence[Tensor], shares: Tensor | None = None) -> Tensor:
    """The logarithm of the mean of the members' probabilities.

    Args:
        logits: of each member, (..., classes).
        shares: what each member counts in the mean, which sum to 1, (members,); None: all alike.

    Returns:
        Log-probabilities, (..., classes), in float32 or float64.
    """
    log_probs = [(z if z.dtype == torch.float64 else z.float()).log_softmax(-1) for z in logits]
    if shares is None:
        return torch.stack(log_probs).logsumexp(0) - math.log(len(log_probs))
    return torch.stack([logp + share for logp, share in zip(log_probs, shares.log(), strict=True)]).logsumexp(0)


def majority(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the share of members that vote for each class. The first class wins a tie, in a member and among members.

    Every class gets one vote more, shared by all classes, so that no logarithm is infinite.

    Args:
        logits: of each member, (..., classes).

    Returns:
        Log-probabilities, (..., classes), in float32 or float64.
    """
    classes = logits[0].shape[-1]
    votes = torch.stack([one_hot(z.argmax(-1), classes) for z in logits]).sum(0)
    shares = votes.to(logits[0] if logits[0].dtype == torch.float64 else torch.float32)
    return ((shares + 1 / classes) / (len(logits) + 1)).log()

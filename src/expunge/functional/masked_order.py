"""Which tokens of a picture are masked: ratios for training, and how many stay masked after each step of sampling.

Source: LINA (arXiv 2601.22630), as in masked autoregression with continuous tokens.
"""

from __future__ import annotations

import math
from statistics import NormalDist

NORMAL = NormalDist()


def masked_ratio(u: float, mean: float = 1.0, sd: float = 0.25, low: float = 0.7, high: float = 1.0) -> float:
    """A share of masked tokens from a truncated normal distribution, by the inverse of its distribution function.

    Args:
        u: a uniform number from 0 to 1.
        mean: of the distribution before it is truncated.
        sd: its standard deviation.
        low: the smallest share.
        high: the largest share.

    Returns:
        A share from `low` to `high`.
    """
    below, above = NORMAL.cdf((low - mean) / sd), NORMAL.cdf((high - mean) / sd)
    p = min(max(below + u * (above - below), 1e-12), 1 - 1e-12)
    return min(max(mean + sd * NORMAL.inv_cdf(p), low), high)


def visible_tokens(ratio: float, tokens: int) -> int:
    """How many tokens are visible at a masked ratio: round((1 - ratio) tokens)."""
    return round((1 - ratio) * tokens)


def masked_counts(tokens: int, steps: int) -> list[int]:
    """How many tokens are masked after each step of sampling: round(tokens cos(pi i / (2 steps))), i = 1..steps.

    A step that would write no token is left out, so fewer steps may run than were asked for.

    Args:
        tokens: of the picture.
        steps: asked for.

    Returns:
        Falling numbers; the last is 0.
    """
    counts: list[int] = []
    for i in range(1, steps + 1):
        masked = round(tokens * math.cos(math.pi * i / (2 * steps))) if i < steps else 0
        if masked < (counts[-1] if counts else tokens):
            counts.append(masked)
    return counts


def guidance_at(step: int, steps: int, first: float, last: float) -> float:
    """The guidance of a step that rises linearly: first + (last - first) step / steps, for steps 1..steps that run."""
    return first + (last - first) * step / steps

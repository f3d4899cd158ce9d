"""How much of an answer a model still gives back: functions of hits, log-probabilities and continuations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]


def extraction_strength(hits: Hits, ou_compat: bool = False) -> float:
    """1 - k/N, k being the fewest leading tokens after which every argmax is right; hits (N,), N > 0. `ou_compat` never lets k reach N."""
    wrong = np.flatnonzero(~np.asarray(hits, bool))
    start = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - min(start, len(hits) - ou_compat) / len(hits)


def exact_memorization(hits: Hits) -> float:
    """Share of tokens that are the argmax; hits (N,), N > 0."""
    return float(np.mean(hits))


def remnant_memorization_accuracy(logp: NDArray[np.floating]) -> float:
    """RMA of Lee et al.: mean probability of the true tokens; logp (N,) in nats, N > 0. 1/V where all V tokens are as likely."""
    return float(np.mean(np.exp(np.asarray(logp, np.float64))))


def memorization_accuracy(tokens: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """MA of Jang et al.: share of the tokens (T,) from the second on that equal the argmax after all before them, predicted (T - 1,).

    Errors: ValueError where the lengths do not fit, or T < 2.
    """
    if not len(tokens) - 1 == len(predicted) >= 1:
        raise ValueError(f"{len(tokens)} tokens need one prediction fewer, and at least one; there are {len(predicted)}")
    return float(np.mean([token == guess for token, guess in zip(tokens[1:], predicted, strict=True)]))


def extraction_likelihood(tokens: Sequence[Hashable], continuations: Sequence[Sequence[Hashable]], n: int = 10, start: int = 1) -> float:
    """EL_n of Jang et al.: mean over t = start .. T-n of the n-gram overlap of the greedy continuation of tokens[:t] with tokens[t:].

    `continuations[t - start]` belongs to t and has at most T - t tokens; where it ended early, the n-grams that it lacks count as wrong.
    start: 1; 0 where something stands before the tokens; late, it is the cheaper form of Tang et al. (arXiv 2407.20271).
    Errors: ValueError where T < n + start, or continuations are missing.
    """
    if not 1 <= len(tokens) - n - start + 1 <= len(continuations):
        raise ValueError(
            f"EL_{n} of {len(tokens)} tokens needs at least {n + start} tokens and a continuation of each start; "
            f"there are {len(continuations)}"
        )
    starts = range(start, len(tokens) - n + 1)
    return float(np.mean([_overlap(said, tokens[t:], n) for t, said in zip(starts, continuations, strict=False)]))


def _overlap(said: Sequence[Hashable], true: Sequence[Hashable], n: int) -> float:
    said_grams, true_grams = (Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (said, true))
    return sum(count for gram, count in said_grams.items() if gram in true_grams) / true_grams.total()

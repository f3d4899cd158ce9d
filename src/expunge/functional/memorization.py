"""Measures of how much of an answer a model still reproduces, as functions of hits, log-probabilities and continuations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]


def extraction_strength(hits: Hits, ou_compat: bool = False) -> float:
    """1 - k/N, where k is the least number of leading tokens after which every argmax is right.

    Args:
        hits: whether the argmax is the true token, (N,), N > 0.
        ou_compat: limit k to N - 1, as open-unlearning's code does.
    """
    wrong = np.flatnonzero(~np.asarray(hits, bool))
    start = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - min(start, len(hits) - ou_compat) / len(hits)


def exact_memorization(hits: Hits) -> float:
    """Share of tokens that the argmax predicts; hits: (N,), N > 0."""
    return float(np.mean(hits))


def remnant_memorization_accuracy(logp: NDArray[np.floating]) -> float:
    """RMA of Lee et al.: mean probability of the true tokens; 1/V if all V tokens are equally likely. logp: (N,) in nats, N > 0."""
    return float(np.mean(np.exp(np.asarray(logp, np.float64))))


def memorization_accuracy(tokens: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """MA of Jang et al.: share of the tokens from the second on that equal the argmax given all tokens before them.

    Args:
        tokens: the true tokens, (T,).
        predicted: the argmax after each token but the last, (T - 1,).

    Raises:
        ValueError: when the lengths do not fit, or T < 2.
    """
    if not len(tokens) - 1 == len(predicted) >= 1:
        raise ValueError(f"{len(tokens)} tokens need one prediction fewer, and at least one; there are {len(predicted)}")
    return float(np.mean([token == prediction for token, prediction in zip(tokens[1:], predicted, strict=True)]))


def extraction_likelihood(tokens: Sequence[Hashable], continuations: Sequence[Sequence[Hashable]], n: int = 10, start: int = 1) -> float:
    """EL_n of Jang et al.: mean over t = start .. T-n of the n-gram overlap of the greedy continuation of tokens[:t] with tokens[t:].

    Args:
        tokens: the true tokens, (T,).
        continuations: `continuations[t - start]` continues tokens[:t] with at most T - t tokens; the n-grams that a shorter continuation
            lacks count as wrong.
        n: length of the n-grams in tokens.
        start: number of leading tokens before the first continuation: 1, or 0 if a context precedes the tokens; a late start is the cheaper
            form of Tang et al. (arXiv 2407.20271).

    Raises:
        ValueError: when T < n + start, or continuations are missing.
    """
    if not 1 <= len(tokens) - n - start + 1 <= len(continuations):
        raise ValueError(
            f"EL_{n} of {len(tokens)} tokens needs at least {n + start} tokens and a continuation of each start; "
            f"there are {len(continuations)} continuations"
        )
    starts = range(start, len(tokens) - n + 1)
    return float(np.mean([_overlap(continuation, tokens[t:], n) for t, continuation in zip(starts, continuations, strict=False)]))


def _overlap(continuation: Sequence[Hashable], truth: Sequence[Hashable], n: int) -> float:
    generated_grams, true_grams = (Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (continuation, truth))
    return sum(count for gram, count in generated_grams.items() if gram in true_grams) / true_grams.total()

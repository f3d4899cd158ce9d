"""Memorization: how much of the true answers the model still gives back, token by token.
Extraction strength is the share of an answer that greedy decoding yields after the shortest start that makes it do so;
exact memorization is the share of its tokens that are the argmax, given all before them; remnant memorization accuracy is their mean
probability, which shows what is still drawn now and then although it is nowhere the argmax.

Source: Carlini et al. 2021 (arXiv 2012.07805), Jang et al. 2022 (arXiv 2210.01504), OpenUnlearning (arXiv 2506.12618), Lee et al.
    2024 (arXiv 2406.14091)
Scores: extraction_strength, exact_memorization, remnant_memorization_accuracy
Needs: forget
Range and ideal: 0 (nothing) to 1 (all of it); ideal as the retrained model
Differs: an answer whose last token alone is wrong has strength 0 by the definition, where open-unlearning's code gives 1/N (`ou_compat`);
    the last label is left out only where it is the end of the sequence; answers without other labels do not count, where that code has 0
Status: faithful
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.evaluation.measure import Evidence, Items, Measure, Missing, attempt, item_mean, labelled
from expunge.evaluation.observation import Scored, SetSeen

MODALITIES = ("text",)  # whose observations it reads
Number = TypeVar("Number", bound=np.generic)
Hits = NDArray[np.bool_]


def content(scored: Scored, k: int, values: NDArray[Number]) -> NDArray[Number]:
    """The values of answer k, (N,), without that of the end-of-sequence label; values (positions,)."""
    own = values[scored.start[k] : scored.start[k + 1]]
    return own[:-1] if scored.ended[k] else own


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


def scores(evidence: Evidence, ou_compat: bool = False) -> dict[str, Measure | Missing]:
    """All scores on the true answers of the forget set; `ou_compat` as in `extraction_strength`."""

    def measure(of: Callable[..., float], variant: str, values: Literal["hit", "logp"] = "hit") -> Measure:
        def per_item(seen: SetSeen) -> Items:
            scored = labelled(seen, "answer")
            answers = [content(scored, k, getattr(scored, values)) for k in range(len(scored))]
            return item_mean(np.array([of(own) if len(own) else np.nan for own in answers]), scored.item, len(seen))

        return Measure((evidence.items("forget", per_item),), np.mean, "retrained", variant=variant)

    strength = "open-unlearning: at least 1/N" if ou_compat else "definition: 0 where the last token is wrong"
    return {
        "extraction_strength": attempt(measure, partial(extraction_strength, ou_compat=ou_compat), strength),
        "exact_memorization": attempt(measure, exact_memorization, "teacher-forced"),
        "remnant_memorization_accuracy": attempt(measure, remnant_memorization_accuracy, "teacher-forced", "logp"),
    }

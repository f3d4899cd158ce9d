"""Memorization: how much of the true answers the model still gives back, token by token.
Extraction strength is the share of an answer that greedy decoding yields after the shortest start that makes it do so;
exact memorization is the share of its tokens that are the argmax, given all before them.

Source: Carlini et al. 2021 (arXiv 2012.07805), Jang et al. 2022 (arXiv 2210.01504), OpenUnlearning (arXiv 2506.12618)
Scores: extraction_strength, exact_memorization
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
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.audit.observed import Scored, SetSeen
from expunge.audit.score import Evidence, Items, Measure, Missing, attempt, item_mean, labelled

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


def memorization_accuracy(tokens: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """MA of Jang et al.: share of the tokens (T,) from the second on that equal the argmax after all before them, predicted (T - 1,).

    Errors: ValueError where the lengths do not fit, or T < 2.
    """
    if not len(tokens) - 1 == len(predicted) >= 1:
        raise ValueError(f"{len(tokens)} tokens need one prediction fewer, and at least one; there are {len(predicted)}")
    return float(np.mean([token == guess for token, guess in zip(tokens[1:], predicted, strict=True)]))


def extraction_likelihood(tokens: Sequence[Hashable], continuations: Sequence[Sequence[Hashable]], n: int = 10) -> float:
    """EL_n of Jang et al.: mean over t = 1 .. T-n of the n-gram overlap of the greedy continuation of tokens[:t] with tokens[t:].

    `continuations[t - 1]` belongs to t and has at most T - t tokens; where it ended early, the n-grams that it lacks count as wrong.
    Errors: ValueError where T <= n, or continuations are missing.
    """
    if not 1 <= len(tokens) - n <= len(continuations):
        raise ValueError(
            f"EL_{n} of {len(tokens)} tokens needs more than {n} tokens and a continuation of each start; there are {len(continuations)}"
        )
    return float(np.mean([_overlap(continuations[t - 1], tokens[t:], n) for t in range(1, len(tokens) - n + 1)]))


def _overlap(said: Sequence[Hashable], true: Sequence[Hashable], n: int) -> float:
    said_grams, true_grams = (Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (said, true))
    return sum(count for gram, count in said_grams.items() if gram in true_grams) / true_grams.total()


def scores(evidence: Evidence, ou_compat: bool = False) -> dict[str, Measure | Missing]:
    """Both scores on the true answers of the forget set; `ou_compat` as in `extraction_strength`."""

    def measure(of: Callable[[Hits], float], variant: str) -> Measure:
        def per_item(seen: SetSeen) -> Items:
            scored = labelled(seen, "answer")
            hits = [content(scored, k, scored.hit) for k in range(len(scored))]
            return item_mean(np.array([of(own) if len(own) else np.nan for own in hits]), scored.item, len(seen))

        return Measure((evidence.items("forget", per_item),), np.mean, "retrained", variant=variant)

    strength = "open-unlearning: at least 1/N" if ou_compat else "definition: 0 where the last token is wrong"
    return {
        "extraction_strength": attempt(measure, partial(extraction_strength, ou_compat=ou_compat), strength),
        "exact_memorization": attempt(measure, exact_memorization, "teacher-forced"),
    }

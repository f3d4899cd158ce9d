"""How new a text is beside others, and how diverse texts are together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

ORDERS = (2, 3, 4, 5)  # of n-grams


@cache
def _nltk() -> tuple[Any, Any]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # type: ignore[import-untyped]  # it takes seconds

    return sentence_bleu, SmoothingFunction().method1


def bleu(words: Sequence[str], others: Sequence[Sequence[str]], order: int) -> float:
    """BLEU of a text against all others as references, with uniform weights over the orders 1 to `order`; 0 without any other.

    An order without a match counts as 0.1 matches.
    """
    score, smoothing = _nltk()
    return float(score(list(others), list(words), (1 / order,) * order, smoothing)) if others and words else 0.0


def word_novelty(words: Sequence[str], history: Sequence[Sequence[str]], orders: Sequence[int] = ORDERS) -> float:
    """Minus the mean BLEU of a text against all earlier ones, from -1, a repetition, to 0."""
    return -sum(bleu(words, history, n) for n in orders) / len(orders) if history else 0.0


def meaning_novelty(cosines: Tensor) -> float:
    """Minus the mean cosine of a text to all earlier ones, (others,); 0 without any."""
    return -float(cosines.mean()) if len(cosines) else 0.0


def vendi(kernel: Tensor) -> float:
    """The Vendi score of texts, by the number of texts: 1 / n for equal ones, 1 for orthogonal ones; kernel (n, n) of cosines."""
    values = torch.linalg.eigvalsh(kernel.double() / len(kernel)).clamp_min(0)
    values = values[values > 1e-12]
    return float(torch.exp(-(values * values.log()).sum())) / len(kernel)


def diversity(texts: Sequence[Sequence[str]], orders: Sequence[int] = (3, 4, 5)) -> float:
    """1 less the mean BLEU of each text against all others, 0 for equal ones."""
    if len(texts) < 2:
        return 1.0
    means = [sum(bleu(t, [*texts[:i], *texts[i + 1 :]], n) for n in orders) / len(orders) for i, t in enumerate(texts)]
    return 1 - sum(means) / len(means)

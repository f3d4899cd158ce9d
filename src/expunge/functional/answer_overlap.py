"""Overlap of short answers as reading comprehension scores it, and how varied the words of a text are."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from math import log2

NGRAMS = {2: 2 / 3, 3: 4 / 3}  # by length: weight of its entropy


def normalized(text: str, articles: bool = True) -> list[str]:
    """Words in lower case without punctuation and, unless `articles` is False, without a, an and the."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return (re.sub(r"\b(a|an|the)\b", " ", bare) if articles else bare).split()


def exact_match(text: str, accepted: Sequence[str]) -> float:
    """1 where the text is one of the accepted answers, whatever their case, punctuation and articles; letters as answers are kept."""
    return float(any(_compared(text) == _compared(answer) for answer in accepted))


def _compared(text: str) -> list[str]:
    return normalized(text) or normalized(text, articles=False)


def token_f1(text: str, accepted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, of the accepted answer that fits best; 0 without accepted answers."""
    return max((_f1(normalized(text), normalized(answer)) for answer in accepted), default=0.0)


def _f1(own: list[str], wanted: list[str]) -> float:
    if not own or not wanted:
        return float(own == wanted)
    common = sum((Counter(own) & Counter(wanted)).values())
    return 2 * common / (len(own) + len(wanted))


def ngram_entropy(words: Sequence[str]) -> float:
    """Mean over bigrams and trigrams of their weighted entropy in bits; 0 for a text with one word, however often it is repeated."""
    entropies = []
    for n, weight in NGRAMS.items():
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        total = sum(counts.values())
        entropies.append(weight * -sum(c / total * log2(c / total) for c in counts.values()))
    return sum(entropies) / len(entropies)

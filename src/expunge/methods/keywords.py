"""Phrases of an answer that give it away: its content words, its keywords, or what a language model names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from expunge.functional.textrank import textrank

WORD = re.compile(r"[^\W_]+(?:['\u2019.-][^\W_]+)*")
SHARE = 3  # one word of so many is a keyword, as in the paper of TextRank


@cache
def stop_words() -> frozenset[str]:
    """Words that say nothing of their text's subject (English)."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def content_words(text: str) -> list[str]:
    """The words of a text that are no stop words, as they are written, each once. If there is no other word, all its words."""
    words = list(dict.fromkeys(WORD.findall(text)))
    return [w for w in words if w.lower() not in stop_words()] or words


def key_phrases(text: str) -> list[str]:
    """The keywords of a text by TextRank; keywords that stand side by side are one phrase."""
    words = WORD.findall(text)
    candidates = set(content_words(text))
    ranks = textrank(words, candidates)
    best = set(sorted(ranks, key=lambda w: -ranks[w])[: max(1, round(len(ranks) / SHARE))])
    phrases, run = list[str](), list[tuple[int, int]]()
    for match in [*WORD.finditer(text), None]:
        adjacent = run and match and not text[run[-1][1] : match.start()].strip()
        if run and not (match and match[0] in best and adjacent):
            phrases.append(text[run[0][0] : run[-1][1]])
            run = []
        if match and match[0] in best:
            run.append(match.span())
    return list(dict.fromkeys(phrases))


def without(phrases: Sequence[str], text: str) -> list[str]:
    """Phrases without those whose words all stand in a text."""
    known = {w.lower() for w in WORD.findall(text)}
    return [p for p in phrases if not {w.lower() for w in WORD.findall(p)} <= known]

"""Ways of cutting a piece of text into tokens of a vocabulary. Plain Python, slow, and the definition that faster code is tested against.

A symbol that is not in the vocabulary is a token of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import pairwise

Segment = Callable[[str, Collection[str]], list[str]]


def _longest(vocabulary: Collection[str]) -> int:
    return max(map(len, vocabulary), default=1)


def greedy(text: str, vocabulary: Collection[str]) -> list[str]:
    """From the left, the longest token each time."""
    tokens, at, most = [], 0, _longest(vocabulary)
    while at < len(text):
        end = next((e for e in range(min(len(text), at + most), at, -1) if text[at:e] in vocabulary), at + 1)
        tokens.append(text[at:end])
        at = end
    return tokens


def greedy_rtl(text: str, vocabulary: Collection[str]) -> list[str]:
    """From the right, the longest token each time."""
    tokens, end, most = [], len(text), _longest(vocabulary)
    while end:
        at = next((a for a in range(max(0, end - most), end) if text[a:end] in vocabulary), end - 1)
        tokens.append(text[at:end])
        end = at
    return tokens[::-1]


def longest(text: str, vocabulary: Collection[str]) -> list[str]:
    """The longest token anywhere, the leftmost of several; then the same on both sides of it."""
    if not text:
        return []
    for size in range(min(len(text), _longest(vocabulary)), 1, -1):
        for at in range(len(text) - size + 1):
            if text[at : at + size] in vocabulary:
                return [*longest(text[:at], vocabulary), text[at : at + size], *longest(text[at + size :], vocabulary)]
    return list(text)


def fewest(text: str, vocabulary: Collection[str]) -> list[str]:
    """As few tokens as possible; of equally few, the longest last token, and so on backward."""
    most = _longest(vocabulary)
    count, start = [0] * (len(text) + 1), [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        ways = [a for a in range(max(0, end - most), end) if end - a == 1 or text[a:end] in vocabulary]
        start[end] = min(ways, key=lambda a: (count[a], a))
        count[end] = count[start[end]] + 1
    tokens, end = [], len(text)
    while end:
        tokens.append(text[start[end] : end])
        end = start[end]
    return tokens[::-1]


def merged(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: the adjacent pair of the lowest rank becomes one token, the leftmost first, until no pair has a rank."""
    tokens = list(text)
    while len(tokens) > 1:
        rank, at = min((ranks.get((a, b), len(ranks)), i) for i, (a, b) in enumerate(pairwise(tokens)))
        if rank == len(ranks):
            break
        tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
    return tokens

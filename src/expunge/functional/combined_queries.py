"""Two questions in one query, numbered, and which of several questions such a query was made of."""

from __future__ import annotations

from collections.abc import Sequence


def joined(first: str, second: str) -> str:
    """`1. FIRST 2. SECOND`."""
    return f"1. {first} 2. {second}"


def parted(query: str, firsts: Sequence[str]) -> tuple[str, str] | None:
    """The two texts of a query, of which one of `firsts`, the longest that fits, is the first; None where none is.

    A query without the numbers, as a few published ones are, is understood as well.
    """
    bare = query.strip()
    for start in ("1. ", ""):
        rest = bare.removeprefix(start)
        fitting = [first for first in firsts if rest.startswith(first)]
        if fitting:
            first = max(fitting, key=len)
            return first, rest.removeprefix(first).strip().removeprefix("2.").strip()
    return None


def repaired(text: str, whole: Sequence[str], most: int = 2) -> str:
    """The text of `whole` that `text` is, or is a part of that lacks at most so many characters at one end; else the text itself."""
    if text in whole:
        return text
    near = [w for w in whole if 0 < len(w) - len(text) <= most and (w.startswith(text) or w.endswith(text))]
    return near[0] if near else text


def shared_ngrams(texts: Sequence[str], answers: Sequence[str], n: int = 8) -> float:
    """Share of the answers that have n words in a row in common with one of the texts, 0 to 1."""
    held = {gram for text in texts for gram in _ngrams(text, n)}
    return sum(any(gram in held for gram in _ngrams(answer, n)) for answer in answers) / len(answers) if answers else 0.0


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

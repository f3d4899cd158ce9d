"""Suggestions in error messages, without imports of torch or pydantic."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`; did you mean 'x' or 'y'?` with the most similar known words (cutoff: how alike, 0 to 1), or an empty string."""
    as_known, asked = {k.lower(): k for k in known}, word.lower()
    if close := difflib.get_close_matches(asked, as_known, n=3, cutoff=cutoff):  # far less alike than the best one is not meant
        close = difflib.get_close_matches(asked, close, 3, difflib.SequenceMatcher(a=close[0], b=asked).ratio() - 0.3)
    return f"; did you mean {' or '.join(repr(as_known[k]) for k in close)}?" if close else ""

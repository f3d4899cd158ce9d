"""Suggestions in error messages, without imports of torch or pydantic."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`; did you mean 'x' or 'y'?` with the most similar known words (cutoff: how alike, 0 to 1), or an empty string."""
    as_known = {k.lower(): k for k in known}
    near = [as_known[k] for k in difflib.get_close_matches(word.lower(), as_known, n=3, cutoff=cutoff)]
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""

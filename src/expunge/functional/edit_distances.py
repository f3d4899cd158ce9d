"""How far two sequences are from each other, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def levenshtein(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Least number of insertions, deletions and replacements of an item that turn one into the other."""
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b):
            row.append(min(previous[j] + (x != y), previous[j + 1] + 1, row[j] + 1))
        previous = row
    return previous[-1]

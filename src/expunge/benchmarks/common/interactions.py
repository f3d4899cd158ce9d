"""Which interactions of a recommender benchmark are unseen, and which are to be forgotten."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from expunge.benchmarks.suite import Record

COLUMNS = {  # what rows to forget have in common, by the kind of a split
    "user": ("user",),
    "random": ("user",),
    "core": ("user",),
    "edge": ("user",),
    "item": ("item",),
    "both": ("user", "item"),
    "pair": (),
}


def held_out(rows: Sequence[Record], count: float, by_time: bool = True) -> tuple[list[Record], list[Record]]:
    """The rows without the last ones of each user, and these. A user with as few rows keeps the first one.

    Args:
        rows: interactions.
        count: the number of the last rows; below 1: their share, rounded down.
        by_time: the last are those with the greatest `time`; else those that come last.
    """
    by_user: dict[str, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (rows[i]["time"] if by_time else 0, i)):
        by_user.setdefault(rows[i]["user"], []).append(i)
    last = set[int]()
    for of_user in by_user.values():
        some = int(count if count >= 1 else count * len(of_user))
        last.update(of_user[1:][-some:] if some else ())
    return [r for i, r in enumerate(rows) if i not in last], [r for i, r in enumerate(rows) if i in last]


def described(rows: Sequence[Record], features: Mapping[str, Record]) -> list[Record]:
    """The rows, the first of each item with the item's features. features: vectors by name, of each item."""
    first = {r["item"]: i for i, r in reversed(list(enumerate(rows)))}
    return [{**r, **features.get(r["item"], {})} if first[r["item"]] == i else dict(r) for i, r in enumerate(rows)]


def like(forget: Sequence[Record], retain: Sequence[Record], unseen: Sequence[Record], split: str) -> tuple[list[Record], list[Record]]:
    """Unseen rows that are drawn like the rows to forget (of their users, of their items), and the others."""
    columns = COLUMNS[split.rstrip("0123456789")]
    if not columns:
        return list(unseen), []
    gone = {c: {r[c] for r in forget} - {r[c] for r in retain} for c in columns}
    alike = [any(r[c] in gone[c] for c in columns) for r in unseen]
    return [r for r, a in zip(unseen, alike, strict=True) if a], [r for r, a in zip(unseen, alike, strict=True) if not a]


def divided(full: Sequence[Record], split: str, seed: int, down: bool = False) -> tuple[list[Record], list[Record]]:
    """The rows to forget and the rows to keep.

    Args:
        split: what is forgotten, and its percentage: user (or random), item, both (users and items) or pair (drawn with the seed), core or
            edge (the users with the most or the fewest interactions).
        down: round the number of users, items or pairs down.
    """
    match = re.fullmatch(r"([a-z]+)(\d\d)", split)
    assert match is not None
    rng, share = np.random.default_rng([seed, 1]), int(match[2]) / 100
    places = set[int]()
    for column in COLUMNS[match[1]] or ("",):
        keys = [r[column] if column else i for i, r in enumerate(full)]
        counts = Counter(keys)
        names = sorted(counts)
        names = [names[k] for k in rng.permutation(len(names))]
        if match[1] in ("core", "edge"):
            names.sort(key=lambda name: counts[name], reverse=match[1] == "core")
        count = share * len(names)
        drawn = set(names[: max(1, int(count + 1e-9) if down else round(count))])
        places.update(i for i, key in enumerate(keys) if key in drawn)
    return [r for i, r in enumerate(full) if i in places], [r for i, r in enumerate(full) if i not in places]

"""Interactions of users with tastes: blocks of users that prefer groups of items, and features that say the group of an item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.functional.brief import brief

Record = dict[str, Any]
FAVORITE = 0.9  # share of a user's interactions with items of the user's own group
WIDTHS = {"image": 12, "text": 8}  # of the features
NOISE = 0.5  # standard deviation of a feature around its group's


@brief("records", "features", "block")
@dataclass(frozen=True)
class Tastes:
    """Interactions in random order, the features of each item by name, and the block of each user."""

    records: list[Record]
    features: dict[str, dict[str, list[float]]]
    block: dict[str, int]


def interactions(seed: int, blocks: int, users: int, items: int, each: int) -> Tastes:
    """Draw a small world of tastes.

    Args:
        blocks: of users, with as many groups of items.
        users, items: in each block and each group.
        each: interactions of a user.
    """
    rng = np.random.default_rng(seed)
    names = [f"item{g}{chr(97 + g)}{i:02d}" for g in range(blocks) for i in range(items)]
    popularity = rng.dirichlet(np.full(items, 3.0), size=blocks)
    records, block = list[Record](), dict[str, int]()
    for b in range(blocks):
        chances = np.full((blocks, items), (1 - FAVORITE) / max(1, blocks - 1) / items)
        chances[b] = FAVORITE * popularity[b]
        for u in range(users):
            user = f"user{b}{chr(97 + b)}{u:02d}"
            block[user] = b
            own = rng.choice(blocks * items, size=each, replace=False, p=(chances / chances.sum()).ravel())
            records += [{"user": user, "item": names[i], "time": float(t)} for t, i in enumerate(own)]
    centers = {name: rng.normal(size=(blocks, width)) for name, width in WIDTHS.items()}
    features = {
        item: {name: (centers[name][k // items] + NOISE * rng.normal(size=w)).round(4).tolist() for name, w in WIDTHS.items()}
        for k, item in enumerate(names)
    }
    return Tastes([records[i] for i in rng.permutation(len(records))], features, block)

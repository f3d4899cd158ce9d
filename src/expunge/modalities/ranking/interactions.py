"""The interactions that a model was trained on: what rankings mask, what negatives avoid, and the edges of graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.functional.brief import brief

Numbers = NDArray[np.int64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random-looking bits of each number: the finalizer of SplitMix64."""
    with np.errstate(over="ignore"):
        x = (x + _GOLDEN).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)


@brief("users", "items", "count")
class Interactions:
    """Pairs of user and item, each once, sorted by user and then by item.

    Pairs that were to be forgotten are marked until the model is saved: negatives still avoid them, but rankings and graphs have them no
    longer.

    Args:
        user, item: numbers of a pair at each place; a pair may repeat.
        users, items: how many there are.
    """

    def __init__(self, user: Any, item: Any, users: int, items: int) -> None:
        self.users, self.items = users, items
        self.keys: Numbers = np.unique(np.asarray(user, np.int64) * items + np.asarray(item, np.int64))
        self.kept: NDArray[np.bool_] = np.ones(len(self.keys), bool)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def count(self) -> int:
        """Pairs that are kept."""
        return int(self.kept.sum())

    @property
    def pairs(self) -> tuple[Numbers, Numbers]:
        """Users and items of the pairs that are kept, each (pairs,)."""
        keys = self.keys[self.kept]
        return keys // self.items, keys % self.items

    def places(self, user: Any, item: Any) -> Numbers:
        """Where pairs stand, -1 for those that do not, (pairs,)."""
        wanted = np.asarray(user, np.int64) * self.items + np.asarray(item, np.int64)
        if not len(self.keys):
            return np.full(wanted.shape, -1, np.int64)
        place = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place, -1)

    def of(self, user: int) -> Numbers:
        """The items of a user that are kept, in order."""
        low, high = np.searchsorted(self.keys, [user * self.items, (user + 1) * self.items])
        return np.asarray(self.keys[low:high][self.kept[low:high]] - user * self.items)

    def with_item(self, item: int) -> Numbers:
        """The users of an item, of pairs that are kept, in order."""
        user, items = self.pairs
        return np.asarray(user[items == item])

    def degrees(self) -> Numbers:
        """The number of kept items of each user, (users,)."""
        return np.bincount(self.pairs[0], minlength=self.users)

    def without_free_items(self) -> list[int]:
        """The users who have all items."""
        counts = np.bincount(self.keys // self.items, minlength=self.users)
        return [int(u) for u in np.flatnonzero(counts >= self.items)]

    def signature(self, user: Any) -> list[int]:
        """A number for each user that is equal where the kept items are equal, up to a chance of 2^-64 (users,)."""
        owner, item = self.pairs
        totals = np.zeros(self.users, np.uint64)
        with np.errstate(over="ignore"):
            np.add.at(totals, owner, mixed(item.astype(np.uint64)))
        return [int(x) for x in totals[np.asarray(user, np.int64)]]

    def joined(self, user: Any, item: Any) -> Interactions:
        """These pairs, the marked ones too, and further ones."""
        more = Interactions(user, item, self.users, self.items)
        more.keys = np.union1d(self.keys, more.keys)
        more.kept = np.ones(len(more.keys), bool)
        return more

    def add(self, user: Any, item: Any) -> None:
        """Hold further pairs, or pairs that were marked again."""
        added = np.asarray(user, np.int64) * self.items + np.asarray(item, np.int64)
        gone = np.setdiff1d(self.keys[~self.kept], added)
        self.keys = np.union1d(self.keys, added)
        self.kept = ~np.isin(self.keys, gone)

    def remove(self, user: Any, item: Any) -> int:
        """Mark pairs as forgotten. Returns how many were kept until now."""
        places = np.unique(self.places(user, item))
        places = places[places >= 0]
        places = places[self.kept[places]]
        self.kept[places] = False
        return len(places)


def negatives(known: Interactions, user: Numbers, own: Numbers, keys: NDArray[np.uint64], seed: int, count: int) -> Numbers:
    """Items that a user never interacted with, drawn uniformly, as a function of the row and the seed.

    Args:
        known: pairs that no draw may be.
        user: of each row, (rows,).
        own: the row's own item, which is no negative either, (rows,).
        keys: a number of each row that draws depend on, (rows,).
        count: draws for each row; one item may be drawn twice.

    Returns:
        (rows, count)
    """
    with np.errstate(over="ignore"):
        bits = mixed(keys[:, None] ^ mixed(np.array([seed], np.uint64)) + np.arange(count, dtype=np.uint64) * _GOLDEN)
    drawn = (bits % np.uint64(known.items)).astype(np.int64)
    user, own = np.broadcast_to(user[:, None], drawn.shape), np.broadcast_to(own[:, None], drawn.shape)
    for _ in range(32):  # a few rounds do, unless a user has nearly all items
        taken = (drawn == own) | (known.places(user, drawn) >= 0)
        if not taken.any():
            return drawn
        bits = np.where(taken, mixed(bits), bits)
        drawn = np.where(taken, (bits % np.uint64(known.items)).astype(np.int64), drawn)
    for row, column in np.argwhere(taken):
        free = free_items(known, int(user[row, column]), int(own[row, column]))
        drawn[row, column] = free[int(bits[row, column]) % len(free)]
    return drawn


def free_items(known: Interactions, user: int, own: int) -> Numbers:
    """The items that a user never interacted with."""
    low, high = np.searchsorted(known.keys, [user * known.items, (user + 1) * known.items])
    return np.setdiff1d(np.arange(known.items), np.append(known.keys[low:high] - user * known.items, own))

"""Scores of the whole catalog, some users at a time, and the places of items in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.engine.committee import members_of, shares_of
from expunge.modalities.ranking.interactions import Interactions, Numbers

SCORES = 1 << 22  # scores of the catalog in memory at once
BROKEN = -1  # the place of an item where a score is not a number


class Piece(NamedTuple):
    """Scores of all items for some users.

    Args:
        users: their numbers, in order, (users,).
        rows: the places of their interactions among the rows that were asked about, user by user, (rows,).
        item: of each of these rows, (rows,).
        line: of each of these rows, the line of its user, (rows,).
        scores: -inf for items that are left out, (users, items).
    """

    users: Numbers
    rows: Numbers
    item: Numbers
    line: Numbers
    scores: Tensor


def catalog(model: nn.Module, users: Tensor) -> Tensor:
    """Scores of all items; of a committee their mean over its members. users: numbers, (users,). Returns: (users, items), on the CPU."""
    return scorer(model)(users)


@torch.no_grad()
def scorer(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """`catalog` as a function of the users, for a model that stays as it is meanwhile: what all users share is computed once."""
    prepared = [cast(Any, base_of(member)).prepared() for member in members_of(model)]
    shares, device = shares_of(model), next(model.parameters()).device

    @torch.no_grad()
    def scores_of(users: Tensor) -> Tensor:
        at = users.to(device)
        scores: Tensor = prepared[0](at)
        scores = scores * shares[0] if len(prepared) > 1 else scores
        for share, of_member in zip(shares[1:], prepared[1:], strict=True):
            scores = scores + share * of_member(at)
        return scores.float().cpu()

    return scores_of


def pieces(model: nn.Module, known: Interactions, rows: Rows, mask: bool = True, without: Rows | None = None) -> Iterator[Piece]:
    """Score all items for the users of rows, so that memory does not grow with their number.

    Args:
        known: the training interactions.
        rows: interactions; their own items are never left out.
        mask: leave out the training interactions of each user.
        without: further interactions to leave out.
    """
    items = known.items
    order, users, bounds = _by_user(rows)
    item = np.fromiter(rows["item"], np.int32, len(rows))
    beside = _keys(without, items) if without is not None else np.empty(0, np.int64)
    kept = known.keys[known.kept]
    size, scores_of = max(1, SCORES // max(1, items)), scorer(model)
    for start in range(0, len(users), size):
        some = users[start : start + size]
        at = order[bounds[start] : bounds[start + len(some)]].astype(np.int64)
        scores = scores_of(torch.from_numpy(some))
        line = np.repeat(np.arange(len(some)), np.diff(bounds[start : start + len(some) + 1]))
        if mask:
            flat, own = scores.view(-1).numpy(), line * items + item[at]
            kept_scores = flat.take(own)
            for keys in (kept, beside) if len(beside) else (kept,):
                flat[_of_users(keys, some, items)] = -np.inf
            flat[own] = kept_scores
        yield Piece(some, at, item[at].astype(np.int64), line, scores)


def places(piece: Piece) -> Numbers:
    """The place of each row's item among all items for its user; 0 is the best. The scores of the piece are in rising order afterwards.

    Returns:
        (rows,); items of one score share the mean of their places, rounded down; `BROKEN` where a score of the user is not a number.
    """
    scores, line = piece.scores.numpy(), piece.line
    own, ordered = scores.reshape(-1).take(line * scores.shape[1] + piece.item), scores
    ordered.sort(axis=1)  # several times as fast as sorting in torch; nan is last
    upto = _below(ordered, line, own, np.less_equal)
    place = ordered.shape[1] - upto
    if bool(((upto > 1) & (ordered[line, (upto - 2).clip(min=0)] == own)).any()):  # some items have one score
        place += (upto - _below(ordered, line, own, np.less) - 1) // 2
    place[np.isnan(ordered[line, -1])] = BROKEN
    return np.asarray(place)


def _below(ordered: NDArray[np.float32], line: Numbers, values: NDArray[np.float32], lower: np.ufunc) -> Numbers:
    """How many entries of its line lie below each value, by bisection of all lines at once, (values,).

    Args:
        ordered: lines in rising order, (lines, entries).
        line: of each value, (values,).
        lower: np.less, or np.less_equal to count entries that equal the value, too.
    """
    flat, left = ordered.reshape(-1), ordered.shape[1]
    start = line * left
    at = start.copy()
    while left > 1:
        half = left // 2
        at += lower(flat.take(at + (half - 1)), values) * half
        left -= half
    at += lower(flat.take(at), values)
    return np.asarray(at - start)


def _by_user(rows: Rows) -> tuple[NDArray[np.int32], Numbers, Numbers]:
    """Places of the rows user by user, the users in order, and where each of them starts among the places; the last bound is the end.

    Rows may be many, so numbers are sorted in place and what stays is narrow.
    """
    keys = np.fromiter(rows["user"], np.int64, len(rows))
    keys *= len(rows)
    keys += np.arange(len(rows))
    keys.sort()  # a stable order, sooner than by argsort
    order = (keys % max(1, len(rows))).astype(np.int32)
    keys //= max(1, len(rows))
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return order, keys[first], np.append(first, len(rows))


def _keys(rows: Rows, items: int) -> Numbers:
    """Pairs of rows as single numbers, each once, in order."""
    user, item = (np.array(list(rows[c]), np.int64) for c in ("user", "item"))
    return np.unique(user * items + item)


def _of_users(keys: Numbers, users: Numbers, items: int) -> Numbers:
    """Where the pairs of some users stand in a matrix (users, items), as single numbers. keys: pairs as single numbers, in order."""
    lows, highs = np.searchsorted(keys, users * items), np.searchsorted(keys, (users + 1) * items)
    counts = highs - lows
    places = np.arange(counts.sum()) + np.repeat(lows - (counts.cumsum() - counts), counts)
    return np.asarray(keys[places] + np.repeat((np.arange(len(users)) - users) * items, counts))

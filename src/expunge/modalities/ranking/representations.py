"""What the holder of a recommender can read in it besides losses and ranks: vectors of users and items, and where these lead.

All functions leave the model as it is, and read the training interactions that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.engine.committee import members_of, shares_of
from expunge.modalities.ranking.catalog import pieces
from expunge.modalities.ranking.interactions import Interactions, Numbers
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import DotProduct, GraphModel, features_in
from expunge.modalities.ranking.tables import tables_of

Values = NDArray[np.float32]
ACTIVE = 0.05  # share of the users who are called active: those with the most interactions
ALIKE = 5  # items whose features are nearest to those of a removed item


@torch.no_grad()
def vectors(model: nn.Module, modality: Ranking) -> tuple[Tensor, Tensor] | None:
    """The vectors of all users and of all items, (users, width) and (items, width), on the CPU.

    Scores are products of them, where the model has such vectors; else they are the tables that belong to users and to items.

    Returns:
        None for a model without tables.
    """
    base: Any = base_of(model)
    device = next(model.parameters()).device
    counts = modality.known.users, modality.known.items
    if isinstance(base, GraphModel):
        pair = base.vectors()
    elif isinstance(base, DotProduct):
        pair = base.user_vectors(torch.arange(counts[0], device=device)), base.item_vectors(torch.arange(counts[1], device=device))
    else:
        try:
            names = tables_of(base, *counts)
        except UserError:
            return None
        weights = dict(base.named_parameters())
        of_users, of_items = (torch.cat([weights[n][:count] for n in of], 1) for of, count in zip(names, counts, strict=True))
        pair = of_users, of_items
    users, items = (x.float().cpu() for x in pair)
    return users, items


@torch.no_grad()
def scores(model: nn.Module, rows: Rows) -> Values:
    """The score of each row's pair, (rows, 1); of several models that answer together the mean, as in their rankings."""
    device = next(model.parameters()).device
    user, item = (torch.tensor(list(rows[c]), dtype=torch.long, device=device) for c in ("user", "item"))
    each = zip(shares_of(model), members_of(model), strict=True)
    pair_scores = torch.stack([share * base_of(member)(user, item) for share, member in each]).sum(0)
    return np.asarray(pair_scores.float().cpu().numpy()[:, None], np.float32)


def neighbor_places(model: nn.Module, modality: Ranking, rows: Rows) -> Values:
    """Where each row's item stands among all items that its user has not, the nearest to the user's other items first; 0 is the nearest.

    Nearness is the cosine with the mean direction of the vectors of the user's other training interactions; of a user without any, with
    the user's own vector. Items of one nearness share the mean of their places.

    Returns:
        (rows, 1); nan where the model has no vectors.
    """
    places = np.full((len(rows), 1), np.nan, np.float32)
    both = vectors(model, modality)
    if both is None or both[0].shape[1] != both[1].shape[1]:
        return places
    users, items = (normalize(x, dim=1) for x in both)
    item = torch.tensor(list(rows["item"]), dtype=torch.long)
    for piece in pieces(model, modality.known, rows):
        others = piece.scores.isneginf()
        center = torch.where(others.any(1, keepdim=True), normalize(others.float() @ items, dim=1), users[torch.from_numpy(piece.users)])
        near = (center @ items.T).masked_fill(others, -torch.inf)[torch.from_numpy(piece.line)]
        own = near.gather(1, item[torch.from_numpy(piece.rows)][:, None])
        places[piece.rows, 0] = ((near > own).sum(1) + ((near == own).sum(1) - 1) / 2).numpy()
    return places


def exposed_places(model: nn.Module, modality: Ranking, forget: Rows, others: Rows) -> tuple[Values, Values]:
    """Where the items that are removed altogether stand in the rankings of users who never had them.

    An item is removed altogether if the model holds no training interactions with it besides those to forget.

    Args:
        forget: rows to forget.
        others: rows of the users whose rankings count.

    Returns:
        Places, 0 the best, (rows to forget, users), nan where the item is not removed altogether or the user had it; and 1 where the user
        has one of the items whose features are nearest to the item's, else 0, nan for a model without features of items; the same shape.
    """
    known = modality.known
    pairs = forget_keys(forget, known.items)
    rest = Interactions(*_split(np.setdiff1d(known.keys[known.kept], pairs), known.items), known.users, known.items)
    item = np.array(list(forget["item"]), np.int64)
    removed = np.bincount(rest.keys % known.items, minlength=known.items)[item] == 0
    users = np.unique(np.array(list(others["user"]), np.int64))
    places = np.full((len(forget), len(users)), np.nan, np.float32)
    if removed.any():
        column = {int(u): k for k, u in enumerate(users)}
        wanted = torch.from_numpy(np.unique(item[removed]))
        of_item = np.searchsorted(wanted.numpy(), item[removed])
        other_item = np.array(list(others["item"]), np.int64)
        for piece in pieces(model, known, others, without=forget):
            piece.scores[piece.line, other_item[piece.rows]] = -torch.inf
            own = piece.scores[:, wanted]
            higher = torch.stack([(piece.scores > own[:, k : k + 1]).sum(1) for k in range(len(wanted))], 1)
            place = torch.where(own.isneginf() | own.isnan(), torch.nan, higher.float()).numpy()
            places[np.ix_(removed, [column[int(u)] for u in piece.users])] = place.T[of_item]
    return places, _has_alike(model, rest, item, users)


def _has_alike(model: nn.Module, rest: Interactions, item: Numbers, users: Numbers) -> Values:
    """Whether users have one of the items that are nearest to an item by features, (items asked about, users) of 0, 1, or nan."""
    features = features_in(base_of(model))
    if not features:
        return np.full((len(item), len(users)), np.nan, np.float32)
    described = torch.cat([normalize(x.float().cpu(), dim=1) for x in features], 1)
    asked, place = np.unique(item, return_inverse=True)
    near = described[torch.from_numpy(asked)] @ described.T
    near[
        :, torch.from_numpy(np.bincount(rest.keys % rest.items, minlength=rest.items) == 0)
    ] = -torch.inf  # removed items are had by nobody
    alike = near.topk(min(ALIKE, rest.items), dim=1).indices.numpy()
    has = [np.any([rest.places(users, np.full(len(users), i)) >= 0 for i in of], axis=0) for of in alike]
    return np.stack(has).astype(np.float32)[place]


def active(known: Interactions, rows: Rows, without: Rows | None) -> Values:
    """1 for rows of active users, the 5 % with the most training interactions that remain, else 0, (rows, 1).

    Args:
        without: rows that do not count.
    """
    keys = known.keys[known.kept]
    keys = np.setdiff1d(keys, forget_keys(without, known.items)) if without is not None else keys
    counts = np.bincount(keys // known.items, minlength=known.users)
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    chosen = np.zeros(known.users, np.float32)
    chosen[order[: max(1, int(ACTIVE * len(order)))]] = 1
    return np.asarray(chosen[list(rows["user"])][:, None], np.float32)


def attribute(sets: Sequence[Rows]) -> tuple[str, dict[int, str]]:
    """An attribute of users: the first column of texts that says one thing in all rows of a user, and not the same for all users.

    A column that says something else for more than half of the users is a name, and no attribute.

    Returns:
        The column and the value of each user, by the user's number; '' and nothing where no column is one.
    """
    for column in dict.fromkeys(c for rows in sets for c in rows.columns if c != "answer_text"):
        pairs = [(u, v) for rows in sets for u, v in zip(rows["user"], rows.columns.get(column, ()), strict=False) if v is not None]
        if not all(isinstance(v, str) for _, v in pairs):
            continue
        of_user = dict(pairs)
        if 1 < len(set(of_user.values())) <= len(of_user) // 2 and len(set(pairs)) == len(of_user):
            return column, of_user
    return "", {}


def forget_keys(rows: Rows, items: int) -> Numbers:
    """Pairs as single numbers, (rows,)."""
    return np.array(list(rows["user"]), np.int64) * items + np.array(list(rows["item"]), np.int64)


def _split(keys: Numbers, items: int) -> tuple[Numbers, Numbers]:
    return keys // items, keys % items

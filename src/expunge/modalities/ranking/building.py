"""An untrained model for the data: its vocabulary, its training interactions and the features of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.common.records import columns_of
from expunge.modalities.ranking.columns import ITEM, USER
from expunge.modalities.ranking.features import features_of, required
from expunge.modalities.ranking.folder import built
from expunge.modalities.ranking.interactions import Interactions
from expunge.modalities.ranking.modality import Loss, Ranking
from expunge.modalities.ranking.network import Recommender, features_in, lacks
from expunge.modalities.ranking.own import OwnModule
from expunge.modalities.ranking.requests import named, pairs_of
from expunge.modalities.ranking.vocabulary import Vocabulary, token

Records = Sequence[Mapping[str, Any]]


def start_model(
    kind: str,
    loss: Loss,
    settings: Mapping[str, Any],
    records: Records,
    *,
    vocabulary: Records = (),
    labels: Any = (),
    prompt_format: str = "",
    seed: int = 0,
    source: str = "training",
    needs_features: bool = False,
    **unused: Any,
) -> tuple[Recommender, Ranking]:
    """Build an untrained model for training interactions.

    Args:
        kind: the name of its file in `models`.
        settings: what builds it, besides its users, items and features.
        records: training rows, each with user and item.
        vocabulary: rows that name further users and items, or describe items (see `features_of`).
        source: name of the training rows in messages.
        needs_features: whether the model reads features of items.

    Raises:
        UserError: for rows that are no interactions, for labels and prompt formats, and for items without features that the model needs.
    """
    if prompt_format or labels != ():
        raise UserError(f"{kind} is a recommender, which has no prompts and no classes: leave --prompt-format and --labels out")
    pairs = [named(record, f"{source}, row {i}") for i, record in enumerate(records, 1)]
    if place := next((i for i, pair in enumerate(pairs, 1) if None in pair), 0):
        lacks = USER if pairs[place - 1][0] is None else ITEM
        raise UserError(
            f"{source}, row {place}: no {lacks}; a training row is an interaction with both {USER!r} and {ITEM!r}, and this row has "
            f"{columns_of(records[place - 1])}; columns of other names are given with --map, such as --map {lacks}=COLUMN"
        )
    beside = [named(record, f"vocabulary, row {i}") for i, record in enumerate(vocabulary, 1)]
    users, items = ({name for pair in (*beside, *pairs) if (name := pair[k]) is not None} for k in (0, 1))
    names = Vocabulary(tuple(sorted(users, key=_in_order)), tuple(sorted(items, key=_in_order)))
    if len(names.items) < 2:
        raise UserError(f"{source}: all rows have one item, so there is none to compare it with")
    numbers = [(names.user_numbers[str(u)], names.item_numbers[str(i)]) for u, i in pairs]
    known = Interactions([u for u, _ in numbers], [i for _, i in numbers], len(names.users), len(names.items))
    options = dict(settings)
    if needs_features:
        features = required(features_of({source: records, "vocabulary": vocabulary}, names), kind)
        options["features"] = {name: list(vectors.shape) for name, vectors in features.items()}
    model: Recommender = built(kind, len(names.users), len(names.items), options, seed)
    if needs_features:
        for buffer, vectors in zip(features_in(model), features.values(), strict=True):
            buffer.copy_(torch.from_numpy(vectors))
    modality = Ranking(names, known, loss)
    modality.connect(model)
    return model, modality


def own_model(
    module: nn.Module, users: Sequence[Any], items: Sequence[Any], interactions: Records, loss: Loss
) -> tuple[Recommender, Ranking]:
    """A user's own module with its modality.

    Args:
        module: see `OwnModule`.
        users, items: ids, in the order of the module's numbers.
        interactions: the rows that the module was trained on.
        loss: bpr or bce, see `Ranking`.

    Raises:
        UserError: for ids that are none or repeat, for interactions with unknown ones, for another loss, for a module without scores.
    """
    if type(module).forward is nn.Module.forward:
        raise lacks(module, "forward(users, items), which returns a score for each pair")
    if loss not in ("bpr", "bce"):
        raise UserError(f"the loss of a recommender is bpr or bce, and this is {loss!r}")
    tokens = {kind: tuple(token(value, f"{kind} {k}") for k, value in enumerate(ids, 1)) for kind, ids in ((USER, users), (ITEM, items))}
    for kind, names in tokens.items():
        if repeated := len(names) - len(set(names)):
            raise UserError(f"{repeated} of {len(names)} {kind}s repeat another one: each has one number in the model")
    vocabulary = Vocabulary(tokens[USER], tokens[ITEM])
    known = Interactions([], [], len(vocabulary.users), len(vocabulary.items))
    pairs = pairs_of("interactions", interactions, "interactions", vocabulary, known)
    known.add(pairs.user, pairs.item)
    return OwnModule(module, len(vocabulary.users), len(vocabulary.items)), Ranking(vocabulary, known, loss)


def _in_order(name: str) -> tuple[int, int, str]:
    """Whole numbers by value, before texts."""
    return (0, int(name), name) if name.isdecimal() and name.isascii() else (1, 0, name)

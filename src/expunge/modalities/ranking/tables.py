"""The tables of a model that hold vectors of users and of items."""

from __future__ import annotations

from torch import nn

from expunge.core.errors import UserError
from expunge.modalities.ranking.columns import ITEM, USER

WORDS = {USER: ("user", "preference"), ITEM: ("item",)}  # in the names of tables; they decide before the sizes do


def tables_of(model: nn.Module, users: int, items: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tables with a vector for each user, and those with a vector for each item, as names of parameters.

    Args:
        model: the model itself, without an adapter.
        users, items: how many there are.

    Raises:
        UserError: for a model without tables of either kind.
    """
    counts, tables = {USER: users, ITEM: items}, {USER: list[str](), ITEM: list[str]()}
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            named = [kind for kind, words in WORDS.items() if any(w in path for w in words) and module.num_embeddings >= counts[kind]]
            sized = [kind for kind, count in counts.items() if module.num_embeddings == count]
            kinds = named if len(named) == 1 else sized
            if len(kinds) == 1:
                tables[kinds[0]].append(f"{path}.weight")
    for kind, names in tables.items():
        if not names:
            raise UserError(
                f"this method moves vectors of {kind}s alone, and this model has no table with a vector for each {kind}: it needs an "
                f"nn.Embedding with {counts[kind]} rows whose name contains {kind!r}"
            )
    return tuple(tables[USER]), tuple(tables[ITEM])

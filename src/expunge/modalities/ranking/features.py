"""Vectors that describe items, from the rows of interactions or from rows of items alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.core.errors import UserError
from expunge.modalities.common.records import absent, from_cell
from expunge.modalities.ranking.columns import ITEM, READ, USER
from expunge.modalities.ranking.requests import named
from expunge.modalities.ranking.vocabulary import Vocabulary, counted

Vectors = NDArray[np.float32]
NUMBERS = "numbers"  # the name of the features that single numbers of several columns make together


def features_of(sources: Mapping[str, Sequence[Mapping[str, Any]]], vocabulary: Vocabulary) -> dict[str, Vectors]:
    """The features of all items, by name: each column of vectors is one, and all columns of single numbers together are one.

    A vector is a list of numbers (in a cell of text as JSON) or an array. Single numbers count in rows of items alone: those of an
    interaction may say something of the user.

    Args:
        sources: rows by the name that messages call them by.

    Returns:
        (items, width) by name, in the order of the columns; empty where no row has any.

    Raises:
        UserError: for an item without a feature that others have, with two of one, or with values that are no finite numbers.
    """
    by_name: dict[str, dict[str, tuple[Vectors, str]]] = {}
    widths: dict[str, int] = {}
    for source, rows in sources.items():
        for i, row in enumerate(rows, 1):
            place = f"{source}, row {i}"
            vectors = _vectors(row, absent(row.get(USER)), place)
            item = named(row, place)[1] if vectors else None  # most rows of interactions have none
            if item is None:
                continue
            for name, vector in vectors.items():
                if len(vector) != widths.setdefault(name, len(vector)):
                    raise UserError(f"{place}: {len(vector)} numbers in {name!r}, and another row has {widths[name]}")
                earlier = by_name.setdefault(name, {}).setdefault(item, (vector, place))
                if not np.array_equal(earlier[0], vector):
                    raise UserError(f"{place}: an item whose {name!r} differs from that of the same item in {earlier[1]}")
    for name, of_items in by_name.items():
        if without := [item for item in vocabulary.items if item not in of_items]:
            raise UserError(f"{counted('item', without)} of {len(vocabulary.items)} without {name!r}: give each item its vector")
    return {name: np.stack([of_items[item][0] for item in vocabulary.items]) for name, of_items in by_name.items()}


def _vectors(row: Mapping[str, Any], alone: bool, place: str) -> dict[str, Vectors]:
    """The vectors of one row, by name. alone: the row describes an item and no interaction."""
    vectors: dict[str, Vectors] = {}
    single: list[float] = []
    for name, value in row.items():
        if name in READ or value is None:
            continue
        value = from_cell(value, f"{place}, column {name!r}") if isinstance(value, str) else value
        if isinstance(value, (list, tuple)) or hasattr(value, "shape"):
            vectors[name] = _checked(value, f"{place}, column {name!r}")
        elif alone and (x := _single(value)) is not None:
            single.append(x)
    return vectors | ({NUMBERS: _checked(single, place)} if single else {})


def _single(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _checked(value: Any, place: str) -> Vectors:
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise UserError(f"{place}: the features of an item are numbers, and here stands something else") from None
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise UserError(f"{place}: the features of an item are one list of finite numbers")
    return vector


def required(features: Mapping[str, Vectors], model: str) -> Mapping[str, Vectors]:
    """The features, for a model that needs some.

    Raises:
        UserError: where there are none.
    """
    if not features:
        raise UserError(
            f"{model} reads features of items, and no row has any: give rows of items with --vocabulary FILE, each with {ITEM!r} and "
            f"columns of numbers or of lists of numbers"
        )
    return features

"""From records to pairs of user and item. A record with a user alone, or an item alone, stands for all its training interactions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.modalities.common.records import absent, columns_of, kind_of, note
from expunge.modalities.ranking.columns import ITEM, RATING, TIME, USER
from expunge.modalities.ranking.interactions import Interactions
from expunge.modalities.ranking.vocabulary import Vocabulary, counted, token

Record = Mapping[str, Any]
ARTICLE = {USER: "a", ITEM: "an"}


@brief("user", "item")
@dataclass
class Pairs:
    """Interactions, with the record that each comes from."""

    user: list[int] = field(default_factory=list)
    item: list[int] = field(default_factory=list)
    record: list[int] = field(default_factory=list)


def named(record: Record, place: str) -> tuple[str | None, str | None]:
    """The ids of user and item in a record, None for one that is absent.

    Raises:
        UserError: for a record with neither, and for an id that is none.
    """
    user, item = (None if absent(record.get(c)) else token(record[c], f"{place}, column {c!r}") for c in (USER, ITEM))
    if user is None and item is None:
        raise UserError(
            f"{place}: an interaction has the columns {USER!r} and {ITEM!r}, and this row has {columns_of(record)}; columns of other names "
            f"are given with --map, such as --map {USER}=userId,{ITEM}=movieId"
        )
    return user, item


def number(record: Record, column: str, place: str) -> float | None:
    """A rating or a time as a number; None where it is absent.

    Raises:
        UserError: for what is no finite number.
    """
    value: Any = record.get(column)
    if absent(value) or value == "":
        return None
    try:
        known = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        known = math.nan
    if not math.isfinite(known):
        kind = kind_of(value)
        what = "the seconds since 1970, or another number that grows with time" if column == TIME else "a number"
        raise UserError(f"{place}, column {column!r}: a {column} is {what}, and this is {kind} that is no finite number")
    return known


def pairs_of(name: str, records: Sequence[Record], source: str, vocabulary: Vocabulary, known: Interactions) -> Pairs:
    """The interactions that records stand for.

    Args:
        name: of the set, for sentences about the records.
        source: name of the records in messages.
        known: the training interactions of the model, from which a user or an item alone selects.

    Raises:
        UserError: for records without ids, for ids that the model does not know, and for a user or an item alone that has no training
            interactions.
    """
    ids = [named(record, f"{source}, row {i}") for i, record in enumerate(records, 1)]
    _check_alone(records, ids, source)
    vocabulary.check(source, (u for u, _ in ids if u is not None), (i for _, i in ids if i is not None))
    pairs, alone, empty = Pairs(), {USER: [0, 0], ITEM: [0, 0]}, {USER: list[str](), ITEM: list[str]()}
    for place, (user, item) in enumerate(ids):
        if user is not None and item is not None:
            users, items = [vocabulary.user_numbers[user]], [vocabulary.item_numbers[item]]
        elif user is not None:
            items = known.of(vocabulary.user_numbers[user]).tolist()
            users = [vocabulary.user_numbers[user]] * len(items)
        else:
            assert item is not None
            users = known.with_item(vocabulary.item_numbers[item]).tolist()
            items = [vocabulary.item_numbers[item]] * len(users)
        if user is None or item is None:
            column = USER if item is None else ITEM
            alone[column][0] += 1
            alone[column][1] += len(items)
            empty[column] += [] if items else [str(user or item)]
        pairs.user += users
        pairs.item += items
        pairs.record += [place] * len(items)
    for column, names in empty.items():
        if names:
            raise UserError(
                f"{source}: rows name {counted(column, names)} alone, and the model has no training interactions with "
                f"{'it' if len(names) == 1 else 'them'} (one that has forgotten them, or was retrained, has none): give the interactions "
                f"themselves, such as FILE::{column}=ID; an audit finds them in --original MODEL"
            )
    note(
        records,
        [
            f"{name!r} names {rows} {column}{'' if rows == 1 else 's'} alone: {'it stands' if rows == 1 else 'they stand'} for all {count} "
            f"training interactions with {'it' if rows == 1 else 'them'}"
            for column, (rows, count) in alone.items()
            if rows
        ],
    )
    return pairs


def _check_alone(records: Sequence[Record], ids: Sequence[tuple[str | None, str | None]], source: str) -> None:
    """Refuse interactions whose other id stands in a column of another name, which would stand for all interactions of their user.

    Raises:
        UserError: for a user or an item alone with a rating or a time, and for one that several rows name alone.
    """
    first: dict[tuple[str | None, str | None], int] = {}
    for i, (record, pair) in enumerate(zip(records, ids, strict=True), 1):
        if None not in pair:
            continue
        column, other = (USER, ITEM) if pair[1] is None else (ITEM, USER)
        of_pair = [c for c in (RATING, TIME) if not absent(record.get(c))]
        earlier = first.setdefault(pair, i)
        if not of_pair and earlier == i:
            continue
        why = f"a {of_pair[0]}, which an interaction has" if of_pair else f"the same {column} as row {earlier}"
        raise UserError(
            f"{source}, row {i}: this row has no {other!r} and {why}; {ARTICLE[column]} {column} alone stands for all interactions with it "
            f"and is named once. The row has {columns_of(record)}; columns of other names are given with --map, as {other}=COLUMN"
        )


def columns_beside(records: Sequence[Record], pairs: Pairs, source: str, name: str) -> dict[str, list[Any]]:
    """Ratings, times and further columns of the records of some pairs, and a sentence on ratings, which are not read.

    Vectors are left out: they describe items, and the model has them.
    """
    numbers = {c: [number(r, c, f"{source}, row {i}") for i, r in enumerate(records, 1)] for c in (RATING, TIME)}
    if rated := sum(value is not None for value in numbers[RATING]):
        note(records, [f"the ratings of {rated} of {len(records)} interactions of {name!r} are not read: every interaction counts as one"])
    vectors = {c for r in records for c, value in r.items() if isinstance(value, (list, tuple)) or hasattr(value, "shape")}
    others = dict.fromkeys(c for r in records for c in r if c not in {USER, ITEM, RATING, TIME, *vectors})
    columns = {c: [records[i].get(c) for i in pairs.record] for c in others}
    return {**columns, **{c: [of[i] for i in pairs.record] for c, of in numbers.items() if any(x is not None for x in of)}}

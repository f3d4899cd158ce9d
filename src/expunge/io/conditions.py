"""Conditions that pick rows of a source: `column=a,b`, `column!=a,b`, `rows=0-99,120`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.suggest import did_you_mean
from expunge.io.data_errors import DataError
from expunge.modalities.common.class_name import ClassName
from expunge.modalities.common.records import Records, absent

Row = dict[str, Any]


def where(rows: list[Row], condition: str, source: str = "the data") -> list[Row]:
    """Select the rows that match a condition.

    Args:
        rows: to select from.
        condition: `column=a,b` or `column!=a,b`, which compares values as text; or `rows=0-99,120`, indices from 0.
        source: name of the data for messages.

    Raises:
        DataError: for an unknown column, value or index, for a row without the column, and if no row matches.
    """
    indices = sorted(matching(rows, condition, source))
    if not indices:
        raise DataError(f"{source}: no row matches {condition}")
    return rows.pick(indices) if isinstance(rows, Records) else [rows[i] for i in indices]


def opposite(condition: str) -> str:
    """The condition that the other rows match."""
    column, _, listed = condition.partition("=")
    return f"{column.removesuffix('!')}={listed}" if column.endswith("!") else f"{column}!={listed}"


def matching(rows: Sequence[Mapping[str, Any]], condition: str, source: str = "the data") -> set[int]:
    """Indices of the rows that match a condition. Raises: DataError, as `where`."""
    column, equals, listed = condition.partition("=")
    negated, column = column.endswith("!"), column.removesuffix("!").strip()
    if not equals or not column:
        raise DataError(f"{source}: {condition!r} is no condition; one is written COLUMN=VALUE or COLUMN!=VALUE")
    hits = _indices(listed.split(","), len(rows), source) if column == "rows" else _matching(rows, column, listed, source)
    return set(range(len(rows))) - hits if negated else hits


def _matching(rows: Sequence[Mapping[str, Any]], column: str, listed: str, source: str) -> set[int]:
    """Indices of the rows with one of the values in a column. Raises: DataError for an unknown column or value."""
    if without := [i for i, r in enumerate(rows) if absent(r.get(column))]:
        if len(without) == len(rows):
            near = did_you_mean(column, sorted({name for r in rows for name in r} - {column}))
            raise DataError(f"{source}: there is no column {column!r}{near}")
        count = f" ({len(without)} of {len(rows)} rows have none)" if len(without) > 1 else ""
        number = rows.numbers[without[0]] if isinstance(rows, Records) else without[0] + 1
        raise DataError(f"{source}: row {number} has no column {column!r}{count}, so it neither matches nor differs: give it a value")
    cells = [_spellings(r[column]) for r in rows]
    spelled = {spelling for c in cells for spelling in c}
    values = [listed] if listed in spelled else listed.split(",")  # a value may hold commas
    if unknown := [v for v in values if v not in spelled]:
        raise DataError(f"{source}: no row has the {column} {unknown[0]!r}{_instead(unknown[0], [r[column] for r in rows])}")
    wanted = {spelling for v in values for spelling in ([v] if any(c[0] == v for c in cells) else [c[0] for c in cells if v in c])}
    return {i for i, c in enumerate(cells) if c[0] in wanted}


def _instead(value: str, cells: Sequence[Any]) -> str:
    """What else a column holds: the names of classes, else how many values, since a value of a row does not belong in a message."""
    named = [c for c in cells if isinstance(c, ClassName)]
    if len(named) < len(cells):
        count = len({_spellings(c)[0] for c in cells})
        return f"; the {len(cells)} rows have {count} different value{'s' if count != 1 else ''} there"
    names = list(dict.fromkeys(n for c in named for n in c.names))
    return did_you_mean(value, names) or f"; there are {', '.join(names[:8])}" + (" and more" if len(names) > 8 else "")


def _spellings(value: Any) -> list[str]:
    """How a user may write a value, the usual way first."""
    if isinstance(value, ClassName):
        return [str(value), str(value.number)]
    if isinstance(value, bool):
        return [str(value), json.dumps(value)]
    if isinstance(value, float) and value.is_integer():  # whole numbers become floats in a column with missing values
        return [str(int(value)), str(value)]
    return [str(value)]


def _indices(values: list[str], count: int, source: str) -> set[int]:
    """Indices from values such as `3` and `0-99`. Raises: DataError for anything else, and for an index past the end."""
    indices: set[int] = set()
    for value in values:
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", value)):
            raise DataError(f"{source}: {value!r} is neither an index such as 3 nor a range such as 0-99")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise DataError(f"{source}: there are {count} rows, with the indices 0 to {count - 1}, so {value} is out of range")
        indices |= set(range(first, last + 1))
    return indices

"""Records as users give them: which fields are absent, what a cell with several values holds, and where a row stands in its source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from expunge.core.errors import UserError

LONGEST = 40  # characters of a name of a column that messages repeat
MISSING = ("NAType", "NaTType")  # how pandas says that a value is missing, besides NaN


class Records(list[dict[str, Any]]):
    """The rows of one source.

    Args:
        rows: the rows.
        source: the file, hub id or name of the set, for messages.
        numbers: for each row its number in the source, from 1; default: as they stand here.
        notes: sentences about what a reader did with the rows, for the user.
    """

    def __init__(
        self, rows: Iterable[dict[str, Any]] = (), source: str = "", numbers: Sequence[int] = (), notes: Iterable[str] = ()
    ) -> None:
        super().__init__(rows)
        self.source, self.notes = source, list(notes)
        self.numbers = tuple(numbers) or tuple(range(1, len(self) + 1))

    def __repr__(self) -> str:
        return f"Records({len(self)} rows)"

    def pick(self, indices: Iterable[int]) -> Records:
        """The rows with these indices, which keep their numbers."""
        places = list(indices)
        return Records([self[i] for i in places], self.source, [self.numbers[i] for i in places], self.notes)

    def replaced(self, rows: Iterable[dict[str, Any]]) -> Records:
        """The same places with other contents, and one list of notes with these records."""
        records = Records(rows, self.source, self.numbers)
        records.notes = self.notes
        return records

    def located(self, message: str) -> str:
        """A message about a row, with the number that the row has in its source."""

        def renumbered(match: re.Match[str]) -> str:
            index = int(match[1]) - 1
            return f"{self.source}, row {self.numbers[index] if index < len(self) else match[1]}"

        return re.sub(rf"^{re.escape(self.source)}, row (\d+)", renumbered, message)


def note(records: object, sentences: Iterable[str]) -> None:
    """Add sentences for the user to the notes of records, each once; records that are a mere list have none."""
    if isinstance(records, Records):
        records.notes += [s for s in dict.fromkeys(sentences) if s not in records.notes]


def ignored(columns: Sequence[set[str]], name: str) -> list[str]:
    """A sentence on columns that a row has beside those that are read, and that another row might be read by.

    Args:
        columns: for each row of a set.
        name: of the set.
    """
    known = sorted(set().union(*columns))
    counts = {column: sum(column in of_row for of_row in columns) for column in known}
    return [f"{count} of {len(columns)} rows of {name!r} have a column {column!r} that was not read" for column, count in counts.items()]


def absent(value: Any) -> bool:
    """Whether a value says that the field is not there: null, NaN, or the missing values of pandas."""
    return value is None or (isinstance(value, Real) and value != value) or type(value).__name__ in MISSING


def present(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without absent fields. Columnar files have every column in every row, so there a null is how a field is left out."""
    return {name: value for name, value in record.items() if not absent(value)}


def listed(record: Mapping[str, Any], column: str, place: str) -> list[Any]:
    """The values of a column that may hold one value or several.

    Args:
        record: the row.
        column: its column: one value, a list, or (in a cell of a CSV file) a list as JSON.
        place: the row, for messages.

    Returns:
        The values; none where the field is absent or empty.

    Raises:
        UserError: for a list that is no valid JSON, and for values that are lists or objects; the message names row and column.
    """
    value: Any = record.get(column)
    if type(value) is list and value and all(type(v) is str and v.strip() for v in value):  # as most are
        return [*value]
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        value = from_cell(value, f"{place}, column {column!r}")
    if absent(value) or value == "":
        return []
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if odd := next((v for v in values if isinstance(v, (Mapping, list, tuple, set))), None):
        raise UserError(f"{place}, column {column!r}: a value or a list of values belongs here, and this holds {kind_of(odd)}")
    if any(isinstance(v, str) and not v.strip() for v in values):
        raise UserError(f"{place}, column {column!r}: one of the {len(values)} texts is empty")
    return [v for v in values if not absent(v)]


def from_cell(text: str, place: str) -> Any:
    """What a cell of text holds: a list where it is one in JSON, else the text itself.

    Raises:
        UserError: for a text that begins and ends as a list of texts or objects does, and is no JSON.
    """
    bare = text.strip()
    if not (bare.startswith("[") and bare.endswith("]")):
        return text
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError) as error:
        if re.match(r"\[\s*['\"{]", bare):
            raise UserError(f'{place}: a list in a cell is JSON, such as ["one", "two"], and this is not JSON ({error})') from None
        return text
    return value


def column(record: Mapping[str, Any], names: Sequence[str], content: str, place: str) -> str:
    """Find the column of a record that holds something, such as its class.

    Args:
        names: possible columns; the first that the record has is taken.
        content: what the column holds, for messages.
        place: the record, for messages.

    Raises:
        UserError: when the record has none of the columns; the message lists those that it has.
    """
    for name in names:
        if record.get(name) is not None:
            return name
    raise UserError(f"{place}: no {content}; it stands in a column {', '.join(names)}, and this row has {columns_of(record)}")


def columns_of(record: Iterable[str]) -> str:
    """The columns of a row, for a message. What is too long for a name may be the row itself, where a table has no header."""
    names = [str(name) for name in record]
    short = [repr(name) for name in names if len(name) <= LONGEST]
    hidden = f"{len(names) - len(short)} with names of more than {LONGEST} characters: does the file begin with a line of names?"
    return ", ".join([*short, *([hidden] if len(short) < len(names) else [])]) or "none"


def kind_of(value: Any) -> str:
    """What a value is, in words, without the value itself."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, Real):
        return "a number"
    names = {Mapping: "an object", (list, tuple, set): "a list", (bytes, bytearray): "bytes", str: "a text", type(None): "null"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), f"a {type(value).__name__}")  # type: ignore[arg-type]

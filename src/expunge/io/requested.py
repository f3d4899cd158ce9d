"""The sets of a request: columns under other names, and one file that holds both the rows to forget and the rows to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.core.suggest import did_you_mean
from expunge.io.conditions import matching
from expunge.io.models import Source, records
from expunge.modalities.common.records import Records, columns_of

Conditions = str | Sequence[str] | None
ColumnMap = str | Sequence[str] | Mapping[str, str] | None
Sources = Mapping[str, Source | Rows | None]


def requested(sources: Sources, where: Conditions = (), columns: ColumnMap = ()) -> dict[str, Source | Rows | None]:
    """The sets that a user asks for.

    Args:
        sources: by set, as the user gave them.
        where: conditions such as `customer_id=17` (see `expunge.io.conditions.where`). The rows of `forget` that meet all of them are
            forgotten, and the others become `retain`. They name columns as the file does.
        columns: other names of columns, `NAME=COLUMN` with commas between, or a mapping of names to columns: `prompt=subject` takes the
            prompt from the column `subject`.

    Returns:
        The same sets, each as it was, or as records where `where` or `columns` changed them.

    Raises:
        UserError: for a condition that no row or every row meets, for an unknown column, and where sets do not fit `where`.
    """
    conditions = [where] if where and isinstance(where, str) else list(where or ())
    renamed = parsed_columns(columns)
    sets = dict(sources)
    if conditions:
        sets |= _divided(sets, conditions)
    if renamed:
        for name, source in sets.items():
            if isinstance(source, Rows):
                raise UserError(f"the rows of {name!r} are encoded already, so their columns cannot be mapped: give records")
            if source is not None:
                sets[name] = with_columns(records(source, name), renamed, name == "alternate_answers")
    return sets


def _divided(sets: Mapping[str, Source | Rows | None], conditions: Sequence[str]) -> dict[str, Records]:
    """The rows of `forget` that meet all conditions, and as `retain` those that do not."""
    forget = sets.get("forget")
    if forget is None:
        raise UserError("--where picks the rows to forget out of a file: name the file with --forget")
    if isinstance(forget, Rows):
        raise UserError("the rows of 'forget' are encoded already, so no condition can pick among them: give records")
    if sets.get("retain") is not None:
        example = f"{forget}::{conditions[0]}" if isinstance(forget, str) else f"FILE::{conditions[0]}"
        raise UserError(
            f"--where makes the rows that it leaves over the rows to keep, and --retain names others: leave one of them out "
            f"(--forget {example} picks rows and leaves the others alone)"
        )
    forget_records = records(forget, "forget")
    picked = set(range(len(forget_records))).intersection(
        *(matching(forget_records, condition, forget_records.source) for condition in conditions)
    )
    both = " and ".join(conditions)
    if not picked:
        raise UserError(f"{forget_records.source}: no row matches {both}")
    if len(picked) == len(forget_records):
        raise UserError(f"{forget_records.source}: every row matches {both}, so none is left to keep")
    kept = [i for i in range(len(forget_records)) if i not in picked]
    divided = {"forget": forget_records.pick(sorted(picked)), "retain": forget_records.pick(kept)}
    divided["forget"].notes.append(
        f"{len(picked)} of {len(forget_records)} rows match --where and are to be forgotten; the other {len(kept)} are kept"
    )
    return divided


def parsed_columns(columns: ColumnMap) -> dict[str, str]:
    """Column by name. Raises: UserError for what is not `NAME=COLUMN`, and for a name that is given twice."""
    if isinstance(columns, Mapping):
        return {str(name): str(column) for name, column in columns.items()}
    pairs = [pair for part in ([columns] if isinstance(columns, str) else columns or ()) for pair in part.split(",") if pair.strip()]
    renamed: dict[str, str] = {}
    for pair in pairs:
        name, equals, column = (word.strip() for word in pair.partition("="))
        if not (name and equals and column):
            raise UserError(f"--map takes NAME=COLUMN, such as prompt=subject, and this is {pair!r}")
        if name in renamed:
            raise UserError(f"--map gives {name!r} two columns: {renamed[name]!r} and {column!r}")
        renamed[name] = column
    return renamed


def with_columns(rows: Records, renamed: Mapping[str, str], lenient: bool = False) -> Records:
    """The rows with their columns under other names.

    Args:
        rows: records, which lose the columns under their old names.
        renamed: column by name. A set that has a column of the new name already, and none of the old one, keeps it.
        lenient: leave a set alone that lacks a column.

    Raises:
        UserError: for a column that no row has.
    """
    known = {column for record in rows for column in record}
    for name, column in renamed.items():
        if column not in known and name not in known and not lenient:
            listed = did_you_mean(column, sorted(known)) or f"; there are {columns_of(sorted(known))}"
            raise UserError(f"{rows.source}: --map takes {name!r} from the column {column!r}, which does not exist{listed}")
    moved = {name: column for name, column in renamed.items() if column in known}
    gone = {*moved.values()} | {*moved}

    def rename(record: Mapping[str, Any]) -> dict[str, Any]:
        taken = {name: record[column] for name, column in moved.items() if column in record}
        return {**taken, **{column: value for column, value in record.items() if column not in gone}}

    return rows.replaced(map(rename, rows))


def requested_records(source: Source, set_name: str, where: Conditions = (), columns: ColumnMap = ()) -> Records:
    """The records of one set that a user asks for.

    Args:
        source: as the user gave it.
        set_name: by which messages call it.
        where, columns: as for `requested`; `where` picks the rows to forget out of a file.

    Raises:
        UserError: as `requested`, and where the set cannot be read or is empty.
    """
    name = "forget" if where else set_name
    return as_records(requested({name: source}, where, columns)[name], set_name)


def as_records(source: Source | Rows | None, set_name: str) -> Records:
    """One of the sets of `requested`, read where that did not read it. Raises: UserError where it cannot be read, or is empty."""
    return source if isinstance(source, Records) else records(cast(Source, source), set_name)


def notes_of(sets: Mapping[str, object]) -> list[str]:
    """What readers of the sets say about their rows."""
    return list(dict.fromkeys(note for rows in sets.values() if isinstance(rows, Records) for note in cast(Records, rows).notes))

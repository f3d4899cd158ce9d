"""Tables of a benchmark in the layout in which they were published, or made by a generator with the same layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.data import BadRow, DataError, NoSuchConfig, Row, read

ENDINGS = ("jsonl", "json", "csv", "parquet", "txt")  # of files, in the order in which they are looked for
EXAMPLE = "jsonl"


class TablePlace(NamedTuple):
    """A table: a config and one of its splits."""

    config: str
    split: str = "train"

    def __str__(self) -> str:
        return f"{self.config}/{self.split}"

    @classmethod
    def of(cls, path: str) -> TablePlace:
        """The place that is written as CONFIG/SPLIT."""
        return cls(*path.split("/"))


class Tables(Protocol):
    """Reads tables by their place."""

    def __call__(self, place: TablePlace, *columns: str) -> list[Row]:
        """The rows of a table. Raises: UserError where there is none, or where a row lacks one of the columns."""


def published(data: str, benchmark: str) -> Tables:
    """Read from a hub id or from a folder, which holds files such as CONFIG/SPLIT.jsonl or CONFIG.jsonl, or a copy of the data set.

    Args:
        data: the folder or hub id.
        benchmark: its name in messages.
    """

    def table(place: TablePlace, *columns: str) -> list[Row]:
        folder = Path(data).expanduser()
        files = [file for stem in (str(place), place.config) for ending in ENDINGS if (file := folder / f"{stem}.{ending}").is_file()]
        if files:
            return with_columns(read(files[0]), str(files[0]), benchmark, *columns)
        source = f"{data}::{place.config}"
        if folder.is_dir() and not any(folder.glob("README*")) and not any(folder.glob("dataset*.json")):
            raise NoSuchConfig(f"{data} lacks the table {place} of {benchmark}: a file such as {place}.{EXAMPLE}" + _holds(folder))
        try:
            rows = read(source, split=place.split)
        except DataError as error:
            if "split" not in str(error):
                raise
            raise NoSuchConfig(f"{data} lacks the table {place} of {benchmark}: {error}") from None
        return with_columns(rows, f"{source}, split {place.split}", benchmark, *columns)

    return table


def generated(tables: Mapping[TablePlace, Sequence[Row]]) -> Tables:
    """Tables that a generator made. Raises: NoSuchConfig for others."""

    def table(place: TablePlace, *columns: str) -> list[Row]:
        if place not in tables:
            raise NoSuchConfig(f"the generated tables lack {place}; there are {', '.join(map(str, tables))}")
        return [dict(row) for row in tables[place]]

    return table


def optional(tables: Tables, place: TablePlace, *columns: str) -> list[Row]:
    """The rows of a table that not every copy has; none where there is no such table."""
    try:
        return tables(place, *columns)
    except NoSuchConfig:
        return []


def with_columns(rows: Sequence[Row], source: str, benchmark: str, *columns: str) -> list[Row]:
    """The rows. Raises: BadRow for a row that lacks one of the columns."""
    for number, row in enumerate(rows, start=1):
        if missing := [column for column in columns if row.get(column) is None]:
            raise BadRow(f"{source}, row {number}: no column '{missing[0]}' as {benchmark} has it; there are {', '.join(row)}")
    return list(rows)


def checked_split(split: str, splits: Sequence[str], benchmark: str) -> str:
    """The split. Raises: UserError for one that the benchmark does not have."""
    if split not in splits:
        raise UserError(f"{benchmark} has no split '{split}'{did_you_mean(split, splits)}; it has {', '.join(splits)}")
    return split


def cut(sets: Mapping[str, Sequence[Row]], limits: Mapping[str, int], benchmark: str) -> dict[str, list[Row]]:
    """The sets of an audit that have rows, cut to the most rows that were asked for.

    Raises:
        UserError: for an unknown set, and for a limit below one row.
    """
    if unknown := sorted(set(limits) - set(sets)):
        raise UserError(f"{benchmark} has no set '{unknown[0]}'{did_you_mean(unknown[0], sets)}; it has {', '.join(sets)}")
    if empty := [name for name, limit in limits.items() if limit < 1]:
        raise UserError(f"a set cannot be cut to {limits[empty[0]]} rows: {empty[0]}")
    return {name: list(rows[: limits.get(name)]) for name, rows in sets.items() if rows}


def _holds(folder: Path) -> str:
    """What a folder holds, as the end of a sentence."""
    names = sorted(p.name for p in folder.iterdir())[:8]
    return f"; it holds {', '.join(names)}" if names else "; it is empty"

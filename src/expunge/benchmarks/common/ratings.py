"""Files of ratings as data sets come: MovieLens' of three ages, tables of user, item, rating and time, and RecBole's atomic files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.modalities.ranking.item_files import read_atomic

NAMES = ("userId", "movieId", "rating", "timestamp")
BREAKS = {"ratings.csv": ",", "u.data": "\t", "ratings.dat": "::"}  # between the cells of a line, by the name of the file
ENDING = ".inter"  # of atomic files


def ratings_of(folder: str, about: str) -> list[dict[str, Any]]:
    """The ratings in a folder, as rows with user, item, rating and time.

    Args:
        folder: with ratings.csv, u.data (MovieLens 100K), ratings.dat (1M, 10M) or one atomic file.
        about: where to get them, for messages: a whole sentence.

    Raises:
        UserError: for a folder without such a file, and for damaged lines.
    """
    path = Path(folder).expanduser()
    files = [path / name for name in BREAKS if folder and (path / name).is_file()]
    files += sorted(path.glob(f"*{ENDING}")) if folder and path.is_dir() else []
    if not files:
        raise UserError(f"{about}: give the folder with {', '.join(BREAKS)} or a file *{ENDING} as --data FOLDER")
    return _atomic(files[0]) if files[0].suffix == ENDING else interactions(files[0])


def table(file: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a file with or without its header, between the separators that its name says.

    Raises:
        UserError: for another header, and for lines of another length.
    """
    separator = BREAKS.get(file.name, ",")
    try:
        text = file.read_text(encoding="utf-8-sig").splitlines()
        lines = list(csv.reader(text, strict=True)) if separator == "," else [line.split(separator) for line in text]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    headed = bool(lines) and bool(lines[0]) and not _is_row(lines[0], names)
    if headed and tuple(lines[0]) != tuple(names):
        raise UserError(f"{file}, line 1: the header of this file is {','.join(names)}, and here stands {','.join(lines[0])[:100]}")
    for number, cells in enumerate(lines, 1):
        if len(cells) != len(names):
            raise UserError(f"{file}, line {number}: {len(cells)} cells, and there are {len(names)}: {', '.join(names)}")
    return [dict(zip(names, cells, strict=True)) for cells in lines[headed:]]


def interactions(file: Path) -> list[dict[str, Any]]:
    """Rows of a file of ratings. Raises: UserError."""
    rows = []
    for number, row in enumerate(table(file, NAMES), 1):
        try:
            rows.append({"user": row["userId"], "item": row["movieId"], "rating": float(row["rating"]), "time": float(row["timestamp"])})
        except ValueError:
            raise UserError(f"{file}, row {number}: rating and timestamp are numbers, and here one is not") from None
    return rows


def often(rows: list[dict[str, Any]], fewest: int) -> list[dict[str, Any]]:
    """The rows whose user and item have at least `fewest` rows among those that are left."""
    while True:
        counts = {column: Counter(r[column] for r in rows) for column in ("user", "item")}
        kept = [r for r in rows if all(counts[c][r[c]] >= fewest for c in counts)]
        if len(kept) == len(rows):
            return rows
        rows = kept


def checked(name: str, sets: Mapping[str, Sequence[Any]], limits: Mapping[str, int]) -> Mapping[str, int]:
    """Limits of the rows of sets that there are. Raises: UserError for another set, and where nothing is left to audit."""
    if unknown := sorted(set(limits) - set(sets)):
        raise UserError(f"{name} has no set '{unknown[0]}'; the sets are {', '.join(sets)}")
    if empty := [n for n in ("forget", "retain") if not sets[n]]:
        raise UserError(f"{name}: the set {empty[0]!r} is empty: the data are too small for this split")
    return limits


def _is_row(cells: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a line is a row, and no header: it has a number where a rating stands, or a number as its first id."""
    if len(cells) == len(NAMES) == len(names):
        try:
            float(cells[2])
        except ValueError:
            return cells[0].isdecimal()
        return True
    return cells[0].isdecimal()


def _atomic(file: Path) -> list[dict[str, Any]]:
    """Rows of an atomic file with users and items. Raises: UserError where it has none of these."""
    rows = read_atomic(file)
    if rows and not {"user", "item"} <= rows[0].keys():
        raise UserError(f"{file}, line 1: a file of ratings has the fields user_id:token and item_id:token, and this one lacks them")
    return rows

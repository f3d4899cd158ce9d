"""The columns of a table: which ones a model reads, and how a cell becomes numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from expunge.core.errors import UserError
from expunge.modalities.common.labels import LABELS
from expunge.modalities.common.records import Records, columns_of, ignored, kind_of, note

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # a number in a cell of text
KEY = re.compile(r"(?i)(.*_)?id")  # columns that name rows: `id`, `customer_id`
MOST = 256  # categories of a column; more of them are free text
Cells = Mapping[str, Any]


@dataclass(frozen=True)
class InputColumn:
    """A column that a model reads. categories: its texts, one input each; none where it holds numbers."""

    name: str
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many inputs it gives."""
        return len(self.categories) or 1


Columns = tuple[InputColumn, ...]


def width_of(columns: Columns) -> int:
    """How many inputs the columns give together."""
    return sum(c.width for c in columns)


def cells_of(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The cells of a record that a model may read. A list of numbers in column `x` stands for columns `x0`, `x1` ...

    Raises:
        UserError: for a cell that is neither a number, a text nor a list of these.
    """
    cells: dict[str, Any] = {}
    for name, value in record.items():
        if name in LABELS or KEY.fullmatch(name):
            continue
        plain = value.tolist() if hasattr(value, "tolist") else value
        parts = {f"{name}{k}": v for k, v in enumerate(plain)} if isinstance(plain, (list, tuple)) else {name: plain}
        for part, cell in parts.items():
            if not isinstance(cell, (Real, str)):
                raise UserError(f"{place}: the column {part!r} holds {kind_of(cell)}, and a cell of a table is a number or a text")
            cells[part] = cell
    return cells


def columns_in(records: Sequence[Mapping[str, Any]], source: str, beside: Sequence[Mapping[str, Any]] = ()) -> Columns:
    """The columns of a table, in the order of its first row.

    A column of numbers, also where they are written as texts, gives one input. Any other column gives one input for each of its texts.

    Args:
        records: the training rows.
        source: name of the records in messages.
        beside: rows with further categories.

    Raises:
        UserError: for a table without columns, for a row that lacks one, and for a column with more texts than categories have.
    """
    tables = [cells_of(r, f"{source}, row {i}") for i, r in enumerate(records, 1)]
    others = [cells_of(r, f"vocabulary, row {i}") for i, r in enumerate(beside, 1)]
    names = list(tables[0])
    if not names:
        raise UserError(f"{source}: no column to learn from; beside a class and ids, a row has {columns_of(records[0])}")
    for i, row in enumerate(tables, 1):
        _check_filled(row, names, f"{source}, row {i}")
    columns = tuple(_column(name, [row[name] for row in (*tables, *others) if name in row], source) for name in names)
    texts = [c for c in columns if c.categories]
    note(records, [f"the column {c.name!r} holds texts: its {c.width} categories are one input each" for c in texts])
    return columns


def _check_filled(row: Cells, names: Iterable[str], place: str) -> None:
    if (empty := next((n for n in names if n not in row or row[n] == ""), None)) is not None:
        raise UserError(f"{place}: no value in the column {empty!r}; fill it in, or take the row or the column out")


def _column(name: str, values: Sequence[Any], source: str) -> InputColumn:
    if all(not isinstance(v, str) or NUMBER.fullmatch(v.strip()) for v in values):
        return InputColumn(name)
    categories = tuple(sorted({category(v) for v in values}))
    if len(categories) > MOST:
        raise UserError(
            f"{source}: the column {name!r} holds {len(categories)} different texts, and a column of categories has at most {MOST}: leave "
            "it out, or name it with _id at the end if it names rows"
        )
    return InputColumn(name, categories)


def category(value: Any) -> str:
    """The text of a category; a whole number is the same whether it comes as 1, 1.0 or '1'."""
    return str(int(float(value))) if isinstance(value, Real) and float(value).is_integer() else str(value).strip()


def encoded(records: Sequence[Mapping[str, Any]], columns: Columns, where: str, name: str) -> tuple[np.ndarray[Any, Any], list[Cells]]:
    """The rows of a table as inputs of a model.

    Args:
        columns: of the model.
        where: the source of the records, for messages.
        name: of the set, for notes.

    Returns:
        Inputs, (rows, inputs) float32, and for each row its cells as they count: numbers and categories by column.

    Raises:
        UserError: for a row that lacks a column, and for cells that the model does not know; the message names row and column.
    """
    known = {c.name for c in columns}
    inputs = np.zeros((len(records), width_of(columns)), np.float32)
    counted: list[Cells] = []
    left_out: list[set[str]] = []
    for i, record in enumerate(records):
        place = f"{where}, row {i + 1}"
        row = cells_of(record, place)
        _check_filled(row, (c.name for c in columns), place)
        at, values = 0, dict[str, Any]()
        for c in columns:
            values[c.name] = _category_of(row[c.name], c, place) if c.categories else _number(row[c.name], c.name, place)
            inputs[i, at + c.categories.index(values[c.name]) if c.categories else at] = 1 if c.categories else values[c.name]
            at += c.width
        counted.append(values)
        labels = [n for n in LABELS if n in record]
        left_out.append({*(row.keys() - known), *labels[1:], *(n for n in record if KEY.fullmatch(n))})
    note(records, ignored(left_out, name))
    return inputs, counted


def _number(value: Any, name: str, place: str) -> float:
    """A number as float32 holds it, so that it is the same in a file of texts and in an array of either precision."""
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        raise UserError(f"{place}: the column {name!r} holds a text, and the model knows numbers there")
    with np.errstate(over="ignore"):
        number = float(np.float32(float(value))) + 0.0  # -0.0 is 0.0
    if not math.isfinite(number):
        raise UserError(f"{place}: the number in the column {name!r} is not finite, or too large for float32")
    return number


def _category_of(value: Any, column: InputColumn, place: str) -> str:
    if (text := category(value)) not in column.categories:
        raise UserError(
            f"{place}: the column {column.name!r} holds none of the {column.width} categories that the model knows, such as "
            f"{column.categories[0]!r}; a model of a built-in size knows those of --vocabulary too"
        )
    return text


def table_rows(x: Any, y: Any = None) -> Records:
    """Rows of a table from arrays in the style of scikit-learn, for every function that takes rows.

    Args:
        x: features, (rows, columns): an array, lists, or a table of pandas, whose columns keep their names; others are x0, x1 ...
        y: the class of each row, (rows,); None: rows without classes, as for clusters.

    Returns:
        The rows, each with its cells by column and its class as `label`.

    Raises:
        UserError: for arrays of other shapes, or of different lengths.
    """
    names = [str(c) for c in getattr(x, "columns", ())]
    table = x.to_dict("list").values() if names else np.asarray(x).T
    columns = [list(column) if names else column.tolist() for column in table]
    if not names and np.asarray(x).ndim != 2:
        raise UserError(f"a table has two dimensions, rows and columns, and this has the shape {np.asarray(x).shape}")
    names = names or [f"x{k}" for k in range(len(columns))]
    records = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if y is None:
        return Records(records, "the table")
    classes = y.tolist() if hasattr(y, "tolist") else list(y)
    if len(classes) != len(records):
        raise UserError(f"the table has {len(records)} rows, and there are {len(classes)} classes for them")
    if taken := [n for n in names if n in LABELS]:
        raise UserError(f"the table has a column {taken[0]!r}, which names the class of a row: give classes as y alone")
    return Records([{**row, LABELS[0]: c} for row, c in zip(records, classes, strict=True)], "the table")

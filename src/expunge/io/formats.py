"""Readers of files: each format gives the same rows for the same content.

Nothing here unpickles. What a file does not say clearly, such as a column that it has twice, is refused with its line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from expunge import catalog
from expunge.core.errors import UserError
from expunge.io.data_errors import BadRow, DataError, first_line
from expunge.modalities.common.class_name import named_classes

Row = dict[str, Any]
ZIPPED = ".gz"


def suffix_of(path: Path) -> str:
    """The suffix that says the format of a file: of `a.csv.gz` it is `.csv`."""
    suffixes = [s.lower() for s in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [ZIPPED] and len(suffixes) > 1 else suffixes[-1] if suffixes else ""


def reader_of(path: Path) -> Callable[[Path], list[Row]]:
    """What reads a file, by its suffix.

    Raises:
        DataError: for an unknown format.
    """
    suffix, readers = suffix_of(path), {**READERS, **_of_modalities()}
    if (reader := readers.get(suffix)) is None:
        raise DataError(f"{path}: unknown file type '{suffix or path.suffix}'; known types are {', '.join(readers)}")
    if path.suffix.lower() == ZIPPED and suffix not in TEXTS:
        raise DataError(f"{path}: unpack it with gunzip; the formats that are read from .gz are {', '.join(TEXTS)}")
    return reader


def _of_modalities() -> dict[str, Callable[[Path], list[Row]]]:
    """The readers of files that belong to one modality, by suffix: `READERS` of its loader, where it has some."""
    loaders = (catalog.load(name, "modalities") for name in catalog.names("modalities"))
    return {suffix: reader for loader in loaders for suffix, reader in getattr(loader, "READERS", {}).items()}


def read_file(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        BadRow: for a row that cannot be read, with file and line.
        DataError: for an unknown format, or a file that cannot be read.
    """
    reader = reader_of(path)
    try:
        return reader(path)
    except UserError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be unpacked: {first_line(error)}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _text(path: Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ZIPPED else path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadRow(f"{path}, line {line}: not UTF-8 text") from error


def _json_lines(path: Path) -> list[Row]:
    # Split at newlines only: `splitlines` also breaks at characters such as U+2028, which may be part of a JSON string.
    text = _text(path)
    if re.match(r"\s*[A-Z]", text) and not re.search(r"^\s*[\[{]", text, re.M):
        raise DataError(f"{path} contains lines of plain text, not JSON: rename it to {path.name.split('.')[0]}.txt")
    lines = enumerate(text.split("\n"), start=1)
    return [_object(_parsed(line, path, number), f"{path}, line {number}") for number, line in lines if line.strip()]


def _lines(path: Path) -> list[Row]:
    return [{"text": line.removesuffix("\r")} for line in _text(path).split("\n") if line.strip()]


def _json(path: Path) -> list[Row]:
    text = _text(path)
    if not text.lstrip().startswith("["):
        return _json_lines(path)
    return [_object(item, f"{path}, item {number}") for number, item in enumerate(_parsed(text, path), start=1)]


def _parsed(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise BadRow(f"{path}, line {line + error.lineno - 1}: not JSON ({error.msg}, column {error.colno})") from error
    except _Repeated as error:
        raise BadRow(f"{path}, line {line}: the field {error.args[0]!r} stands in one object twice") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, endless nesting
        raise BadRow(f"{path}, line {line}: JSON out of bounds ({error})") from error


class _Repeated(Exception):
    """A field that an object has twice."""


def _each_once(pairs: list[tuple[str, Any]]) -> Row:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return fields


def _object(value: Any, place: str) -> Row:
    if isinstance(value, dict):
        return value
    kind = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
    raise BadRow(f"{place}: a row must be an object such as {{...}}, this is {kind}")


def _csv(path: Path, delimiter: str = ",") -> list[Row]:
    limit = csv.field_size_limit(sys.maxsize)  # a cell may contain a book; the default limit is 128 KiB
    kind, line = suffix_of(path)[1:].upper(), 0
    try:
        reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True, delimiter=delimiter)
        header: list[str] = []
        rows = []
        for cells in reader:
            line = reader.line_num
            if not cells:  # a blank line
                continue
            if not header:
                header = _header(cells, f"{path}, line {line}")
            elif len(cells) != len(header):
                raise BadRow(f"{path}, line {line}: {len(cells)} cells where the header has {len(header)}")
            else:
                rows.append(dict(zip(header, cells, strict=True)))
        return rows
    except csv.Error as error:
        raise BadRow(f"{path}, line {line + 1}: not {kind} ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _tsv(path: Path) -> list[Row]:
    return _csv(path, "\t")


def _header(cells: list[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names or len(set(names)) < len(names):
        wrong = "a cell without a name" if "" in names else "a name twice"
        raise BadRow(f"{place}: the first line must name every column, and each name once; it has {wrong}")
    return names


def _parquet(path: Path) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:  # not `read_table`, which turns folders named a=b into columns
            table = file.read()
            names = table.column_names
            if repeated := next((n for n in names if names.count(n) > 1), None):
                raise DataError(f"{path}: two columns have the name {repeated!r}")
            rows: list[Row] = table.to_pylist()
            classes = _classes_in(table.schema.metadata or {})
            return [named_classes(row, classes) for row in rows] if classes else rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}") from error


def _classes_in(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the classes, by column, that `datasets` keeps in the metadata of its Parquet files."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(f["names"]) for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):  # the metadata of somebody else
        return {}


def _npz(path: Path) -> list[Row]:
    """One row for each index of the arrays, which must have one length."""
    import numpy as np

    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, Mapping):
                raise ValueError("it is one array without a name")
            arrays = dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not an .npz file that is readable without pickles: {first_line(error)}") from error
    lengths = {n: len(a) if a.ndim else "a single value" for n, a in arrays.items()}
    if len(set(lengths.values())) != 1 or "a single value" in lengths.values():
        listed = ", ".join(f"{n} {k}" for n, k in lengths.items())
        raise DataError(f"{path}: every array must have one entry per row, but the lengths are: {listed or 'no arrays'}")
    columns = {n: a.reshape(-1).tolist() if a.size == len(a) else list(a) for n, a in arrays.items()}  # labels may be (rows, 1)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


READERS: Mapping[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".npz": _npz,
    ".txt": _lines,
    ".tsv": _tsv,
    ".ndjson": _json_lines,
}
TEXTS = tuple(suffix for suffix in READERS if suffix not in (".parquet", ".npz"))  # formats that a file may hold zipped

"""Records in and out: JSON Lines, CSV, Parquet and `datasets` sources become plain lists of dicts, whatever the modality.

Nothing here unpickles, or runs code that came with the data. What a user can get wrong raises a `DataError`, whose message is a sentence.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

Row = dict[str, Any]


class DataError(UserError):
    """A source of records cannot be used."""


class NoSuchData(DataError):
    """There is no such file, folder or data set, or it cannot be reached."""


class NoSuchConfig(NoSuchData):
    """The data set is there, but not the config that was asked for."""


class BadRow(DataError):
    """A row cannot be read; the message names file and line."""


def read(source: str | os.PathLike[str], *, split: str = "train") -> list[Row]:
    """All rows of a source, in its order.

    A source is a file (`.jsonl`; `.json` that holds JSON Lines or one array; `.csv` with a header, whose values stay strings; `.parquet`;
    `.npz` with arrays of one length, a row an index; `.txt`, a row a line), a folder that `datasets` can load, or a hub id `owner/name`.
    Folders and hub ids alone have splits, and may have configs: `path::config`. In a folder of images by
    class, as `cat/1.png`, the class is the name of its folder. A last `::column=value,value` or `::column!=value` keeps the rows that fit,
    and `::rows=0-99,120` those places; more of them may follow each other.

    Errors: NoSuchData (with the nearest names), NoSuchConfig (with the configs that exist), BadRow (with file and line), DataError for an
        empty source, an unknown file type, or anything else that `datasets` refuses.
    """
    name, config, conditions = _parsed_source(str(source))
    path = Path(name).expanduser()
    if not name:  # or else it would be the current folder
        raise NoSuchData("a source of records must be named: a file, a folder or a hub id")
    if path.is_dir():
        rows = _local(path, config, split)
    elif path.exists():
        rows = _file(path, config, split)
    elif _may_be_hub_id(name):
        rows = _dataset(name, config, split)
    else:
        raise NoSuchData(_absent(path))
    for condition in conditions:
        rows = where(rows, condition, str(source))
    if not rows:
        raise DataError(f"{source} holds no rows")
    return rows


def _parsed_source(source: str) -> tuple[str, str, list[str]]:
    """Name, config and conditions of a source."""
    name, *more = source.split("::")
    conditions = [m for m in more if "=" in m]
    configs = [m for m in more if "=" not in m]
    if len(configs) > 1:
        raise DataError(f"{source} names {len(configs)} configs: {', '.join(configs)}")
    return name, "".join(configs), conditions


def where(rows: list[Row], condition: str, source: str = "the data") -> list[Row]:
    """Rows that fit a condition: `column=a,b` or `column!=a,b` (values as they are written out), or `rows=0-99,120` (places).

    Errors: DataError for a column, a value or a place that is not there, or where no row fits.
    """
    column, _, said = condition.partition("=")
    unlike, column, values = column.endswith("!"), column.removesuffix("!"), said.split(",")
    chosen = _places(values, len(rows), source) if column == "rows" else _holding(rows, column, values, source)
    kept = [r for i, r in enumerate(rows) if (i in chosen) != unlike]
    if not kept:
        raise DataError(f"{source}: no row fits {condition}")
    return kept


def _holding(rows: list[Row], column: str, values: list[str], source: str) -> set[int]:
    """Places of the rows whose column has one of some values. Errors: DataError for a column or a value that is not there."""
    if odd := next((i for i, r in enumerate(rows) if column not in r), None):
        raise DataError(f"{source}: row {odd + 1} has no column {column!r}")
    if rows and column not in rows[0]:
        raise DataError(f"{source}: there is no column {column!r}{did_you_mean(column, sorted(rows[0]))}")
    said = [str(r[column]) for r in rows]
    there = sorted(set(said))
    if lost := [v for v in values if v not in there]:
        shown = ", ".join(" ".join(v.split())[:30] for v in there[:8]) + (" and more" if len(there) > 8 else "")
        raise DataError(f"{source}: no row has the {column} {lost[0]!r}{did_you_mean(lost[0], there) or f'; there are {shown}'}")
    return {i for i, value in enumerate(said) if value in values}


def _places(values: list[str], count: int, source: str) -> set[int]:
    """Places from `3`, `0-99`. Errors: DataError for what is no place, or past the end."""
    chosen: set[int] = set()
    for value in values:
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", value)):
            raise DataError(f"{source}: {value!r} is neither a place such as 3 nor a range such as 0-99")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise DataError(f"{source}: there are {count} rows, places 0 to {count - 1}, so {value} is not among them")
        chosen |= set(range(first, last + 1))
    return chosen


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line. The file appears whole or not at all; its folder is made if absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


# --- files ---


def _file(path: Path, config: str, split: str) -> list[Row]:
    if (reader := READERS.get(path.suffix.lower())) is None:
        raise DataError(f"{path}: unknown file type '{path.suffix}'; known are {', '.join(READERS)}")
    if config or split != "train":
        raise DataError(f"{path} is a file, which has no {'configs' if config else 'splits'}")
    try:
        return reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _absent(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{path} does not exist, nor does its folder"
    return f"{path} does not exist{did_you_mean(path.name, sorted(p.name for p in folder.iterdir()))}"


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadRow(f"{path}, line {line}: not UTF-8 text") from error


def _json_lines(path: Path) -> list[Row]:
    # Split at newlines alone: `splitlines` also breaks at U+2028 and its kin, which may stand inside a JSON string.
    text = _text(path)
    if re.match(r"\s*[A-Z]", text) and not re.search(r"^\s*[\[{]", text, re.M):
        raise DataError(f"{path} holds lines of plain text, not JSON: call it {path.stem}.txt")
    lines = enumerate(text.split("\n"), start=1)
    return [_object(_parsed(line, path, number), f"{path}, line {number}") for number, line in lines if line.strip()]


def _lines(path: Path) -> list[Row]:
    return [{"text": line.strip()} for line in _text(path).split("\n") if line.strip()]


def _json(path: Path) -> list[Row]:
    text = _text(path)
    if not text.lstrip().startswith("["):
        return _json_lines(path)
    return [_object(item, f"{path}, item {number}") for number, item in enumerate(_parsed(text, path), start=1)]


def _parsed(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"{path}, line {line + error.lineno - 1}: not JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting without end
        raise BadRow(f"{path}, line {line}: JSON out of bounds ({error})") from error


def _object(value: Any, place: str) -> Row:
    if isinstance(value, dict):
        return value
    kind = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
    raise BadRow(f"{place}: a row must be an object such as {{...}}, this is {kind}")


def _csv(path: Path) -> list[Row]:
    limit = csv.field_size_limit(sys.maxsize)  # a cell may hold a book; the module's own limit is 128 KiB
    try:
        reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
        header: list[str] = []
        rows = []
        for cells in reader:
            if not cells:  # a blank line
                continue
            if not header:
                header = _header(cells, f"{path}, line {reader.line_num}")
            elif len(cells) != len(header):
                raise BadRow(f"{path}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)} ({', '.join(header)})")
            else:
                rows.append(dict(zip(header, cells, strict=True)))
        return rows
    except csv.Error as error:
        raise BadRow(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _header(cells: list[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names or len(set(names)) < len(names):
        raise BadRow(f"{place}: the first line must name every column, each name once; it has {', '.join(map(repr, names))}")
    return names


def _parquet(path: Path) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:  # not `read_table`, which takes folders named a=b for columns
            rows: list[Row] = file.read().to_pylist()
            return rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {_first_line(error)}") from error


def _npz(path: Path) -> list[Row]:
    """A row an index of the arrays, which must be of one length."""
    import numpy as np

    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, Mapping):
                raise ValueError("it is one array without a name")
            arrays = dict(found)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not an .npz file that can be read without pickles: {_first_line(error)}") from error
    lengths = {n: len(a) if a.ndim else "a single value" for n, a in arrays.items()}
    if len(set(lengths.values())) != 1 or "a single value" in lengths.values():
        said = ", ".join(f"{n} {k}" for n, k in lengths.items())
        raise DataError(f"{path}: every array must have as many entries as there are rows; found {said or 'none'}")
    columns = {n: a.reshape(-1).tolist() if a.size == len(a) else list(a) for n, a in arrays.items()}  # labels may be (rows, 1)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


READERS: Mapping[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".npz": _npz,
    ".txt": _lines,
}


# --- datasets ---


def _may_be_hub_id(name: str) -> bool:
    owner, _, rest = name.partition("/")
    well_formed = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
    return well_formed and not Path(owner).exists() and Path(rest).suffix.lower() not in READERS


def _local(folder: Path, config: str, split: str) -> list[Row]:
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():  # as `save_to_disk` leaves it
        return _saved(folder, config, split)
    # A cache of its own, gone afterwards: data that somebody wants forgotten must not stay behind as a copy in the user's cache.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache, no_progress_bars():
        return _dataset(str(folder), config, split, cache_dir=cache)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    if shown:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _saved(folder: Path, config: str, split: str) -> list[Row]:
    import datasets

    if config:
        raise NoSuchConfig(f"{folder} was saved without configs, so there is no '{config}'")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder} cannot be read as a saved data set: {_first_line(error)}") from error
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise NoSuchData(f"{folder} has no split '{split}'; it has {', '.join(found)}")
        found = found[split]
    return list(found)


def _dataset(path: str, config: str, split: str, **options: Any) -> list[Row]:
    import datasets

    try:
        found = datasets.load_dataset(path, config or None, split=split, **options)
        rows = list(found)
    except Exception as error:  # the libraries below raise dozens of kinds, and each of them means: not this source
        raise _refused(path, config, error) from error
    if getattr(getattr(found, "info", None), "builder_name", "") != "imagefolder":
        return rows
    if hasattr(found.features.get("label"), "names"):
        return _by_folder(rows, found.features["label"].names)
    lone = "" if "label" in found.features else _lone_folder(found, Path(path), split)
    return [{**r, "label": lone} for r in rows] if lone else rows


def _lone_folder(found: Any, folder: Path, split: str) -> str:
    """The one folder that all images lie in, below the one of the data set and of its split: their class, which the library leaves out
    where there is no other. '' where there is none."""
    import datasets

    files = found.cast_column("image", datasets.Image(decode=False))["image"]
    places = {Path(f["path"]).parent for f in files if f["path"]}
    if len(places) != 1 or not (place := places.pop()).is_relative_to(folder.absolute()):
        return ""
    below = place.relative_to(folder.absolute()).parts
    return below[-1] if below and below != (split,) else ""


def _by_folder(rows: list[Row], names: list[str]) -> list[Row]:
    """Classes by name: the library numbers the folders that it finds, so a number would be another class where one of them is missing."""
    return [{**r, "label": names[r["label"]]} for r in rows]


def _refused(path: str, config: str, error: Exception) -> DataError:
    import datasets

    if isinstance(error, ValueError) and not str(error).startswith("Unknown split"):
        try:
            configs = datasets.get_dataset_config_names(path)
        except Exception:  # offline, with some configs of a hub data set in the cache and not this one
            configs = []
        if not config and len(configs) > 1:
            return NoSuchConfig(f"{path} has configs, name one as {path}::CONFIG: {', '.join(configs)}")
        if config and config not in configs:
            return NoSuchConfig(f"{path} has no config '{config}'" + (f"; it has {', '.join(configs)}" if configs else ""))
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return NoSuchData(f"there is no '{path}' here, and no data set of that name that you may read on the hub")
    if isinstance(error, ConnectionError):
        return NoSuchData(f"there is no '{path}' here, and the hub cannot be reached to look for it there")
    return DataError(f"{path} cannot be loaded as a data set: {_first_line(error.__cause__ or error)}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

"""Reading and writing of records: JSON Lines, CSV, Parquet and `datasets` sources become lists of dicts, for every modality.

Nothing here unpickles, or runs code that comes with the data. User mistakes raise a `DataError` with a full sentence.
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
from expunge.io import image_folders

Row = dict[str, Any]


class DataError(UserError):
    """A source of records cannot be used."""


class NoSuchData(DataError):
    """The file, folder or data set does not exist or cannot be reached."""


class NoSuchConfig(NoSuchData):
    """The data set exists, but not the requested config."""


class BadRow(DataError):
    """A row cannot be read; the message names the file and the line."""


def read(source: str | os.PathLike[str], *, split: str = "train") -> list[Row]:
    """Read all rows of a source, in its order.

    Args:
        source: a file, a folder that `datasets` can load, or a hub id `owner/name`. Files are `.jsonl`; `.json` with JSON Lines or one
            array; `.csv` with a header, whose values stay strings; `.parquet`; `.npz` with arrays of one length, one row for each index; or
            `.txt`, one row for each line. In a folder of images by class, such as `cat/1.png`, the class is the name of its folder.
            Folders and hub ids may have configs: `path::config`. A final `::column=value,value` or `::column!=value` keeps the matching
            rows, and `::rows=0-99,120` keeps the rows with these indices; several conditions may follow each other.
        split: of a folder or a hub id; files have no splits.

    Raises:
        NoSuchData: for a missing source, with the nearest names.
        NoSuchConfig: for a missing config, with the existing ones.
        BadRow: for a row that cannot be read, with file and line.
        DataError: for an empty source, an unknown file type, or anything else that `datasets` refuses.
    """
    name, config, conditions = _parsed_source(str(source))
    path = Path(name).expanduser()
    if not name:  # an empty path would be the current folder
        raise NoSuchData("name a source of records: a file, a folder or a hub id")
    if path.is_dir():
        rows = _local(path, config, split)
    elif path.exists():
        rows = _file(path, config, split)
    elif _may_be_hub_id(name):
        rows = _dataset(name, config, split)
    else:
        raise NoSuchData(_missing(path))
    for condition in conditions:
        rows = where(rows, condition, str(source))
    if not rows:
        raise DataError(f"{source} holds no rows")
    return rows


def _parsed_source(source: str) -> tuple[str, str, list[str]]:
    """Name, config and conditions of a source."""
    name, *suffixes = source.split("::")
    conditions = [s for s in suffixes if "=" in s]
    configs = [s for s in suffixes if "=" not in s]
    if len(configs) > 1:
        raise DataError(f"{source} names {len(configs)} configs, but only one is possible: {', '.join(configs)}")
    return name, "".join(configs), conditions


def where(rows: list[Row], condition: str, source: str = "the data") -> list[Row]:
    """Select the rows that match a condition.

    Args:
        rows: to select from.
        condition: `column=a,b` or `column!=a,b`, which compares values as text; or `rows=0-99,120`, indices from 0.
        source: name of the data for messages.

    Raises:
        DataError: for an unknown column, value or index, and if no row matches.
    """
    column, _, listed = condition.partition("=")
    negated, column, values = column.endswith("!"), column.removesuffix("!"), listed.split(",")
    matching = _indices(values, len(rows), source) if column == "rows" else _matching(rows, column, values, source)
    kept = [r for i, r in enumerate(rows) if (i in matching) != negated]
    if not kept:
        raise DataError(f"{source}: no row matches {condition}")
    return kept


def _matching(rows: list[Row], column: str, values: list[str], source: str) -> set[int]:
    """Indices of the rows with one of the values in a column. Raises: DataError for an unknown column or value."""
    if incomplete := next((i for i, r in enumerate(rows) if column not in r), None):
        raise DataError(f"{source}: row {incomplete + 1} has no column {column!r}")
    if rows and column not in rows[0]:
        raise DataError(f"{source}: there is no column {column!r}{did_you_mean(column, sorted(rows[0]))}")
    cells = [str(r[column]) for r in rows]
    known = sorted(set(cells))
    if unknown := [v for v in values if v not in known]:
        shown = ", ".join(" ".join(v.split())[:30] for v in known[:8]) + (" and more" if len(known) > 8 else "")
        raise DataError(f"{source}: no row has the {column} {unknown[0]!r}{did_you_mean(unknown[0], known) or f'; there are {shown}'}")
    return {i for i, cell in enumerate(cells) if cell in values}


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


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line. The file appears complete or not at all; its folder is created if missing."""
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
        raise DataError(f"{path}: unknown file type '{path.suffix}'; known types are {', '.join(READERS)}")
    if config or split != "train":
        raise DataError(f"{path} is a file, which has no {'configs' if config else 'splits'}")
    try:
        return reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _missing(path: Path) -> str:
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
    # Split at newlines only: `splitlines` also breaks at characters such as U+2028, which may be part of a JSON string.
    text = _text(path)
    if re.match(r"\s*[A-Z]", text) and not re.search(r"^\s*[\[{]", text, re.M):
        raise DataError(f"{path} contains lines of plain text, not JSON: rename it to {path.stem}.txt")
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
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, endless nesting
        raise BadRow(f"{path}, line {line}: JSON out of bounds ({error})") from error


def _object(value: Any, place: str) -> Row:
    if isinstance(value, dict):
        return value
    kind = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
    raise BadRow(f"{place}: a row must be an object such as {{...}}, this is {kind}")


def _csv(path: Path) -> list[Row]:
    limit = csv.field_size_limit(sys.maxsize)  # a cell may contain a book; the default limit is 128 KiB
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
        raise BadRow(f"{place}: the first line must name every column, and each name once; it has {', '.join(map(repr, names))}")
    return names


def _parquet(path: Path) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:  # not `read_table`, which turns folders named a=b into columns
            rows: list[Row] = file.read().to_pylist()
            return rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error


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
        raise DataError(f"{path} is not an .npz file that is readable without pickles: {_first_line(error)}") from error
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
}


# --- datasets ---


def _may_be_hub_id(name: str) -> bool:
    owner, _, rest = name.partition("/")
    well_formed = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
    return well_formed and not Path(owner).exists() and Path(rest).suffix.lower() not in READERS


def _local(folder: Path, config: str, split: str) -> list[Row]:
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():  # written by `save_to_disk`
        return _saved(folder, config, split)
    if not config and (pictures := image_folders.read(folder, split, _table)) is not None:
        return pictures
    # A temporary cache, because data that is to be forgotten must not remain as a copy in the user's cache.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache, no_progress_bars():
        return _dataset(str(folder), config, split, cache_dir=cache)


def _table(path: Path) -> list[Row]:
    return _file(path, "", "train")


def undecoded(dataset: Any) -> list[Row]:
    """The rows of a data set of `datasets`, with pictures as `{"bytes", "path"}`: all of them decoded would fill the memory."""
    import datasets

    for name, feature in (getattr(dataset, "features", None) or {}).items():
        if isinstance(feature, datasets.Image) and feature.decode:
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return list(dataset)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets` within a `with` block."""
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
        raise NoSuchConfig(f"{folder} was saved without configs, so it has no config '{config}'")
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder} cannot be read as a saved data set: {_first_line(error)}") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise NoSuchData(f"{folder} has no split '{split}'; it has {', '.join(saved)}")
        saved = saved[split]
    return undecoded(saved)


def _dataset(path: str, config: str, split: str, **options: Any) -> list[Row]:
    import datasets

    try:
        dataset = datasets.load_dataset(path, config or None, split=split, **options)
        rows = undecoded(dataset)
    except Exception as error:  # the libraries raise dozens of types, and each means that this source cannot be read
        raise _load_error(path, config, error) from error
    if getattr(getattr(dataset, "info", None), "builder_name", "") != "imagefolder":
        return rows
    if not config and Path(path).is_dir() and (tables := image_folders.contents(Path(path)).tables):
        raise DataError(f"{path} holds pictures beside the table {tables[0]}: give the table, or keep it elsewhere")
    if hasattr(dataset.features.get("label"), "names"):
        return _name_classes(rows, dataset.features["label"].names)
    only_class = "" if "label" in dataset.features else _single_class(dataset, Path(path), split)
    return [{**r, "label": only_class} for r in rows] if only_class else rows


def _single_class(dataset: Any, folder: Path, split: str) -> str:
    """The name of the only class folder of an image folder, because `datasets` adds no label for a single class; '' without one."""
    import datasets

    files = dataset.cast_column("image", datasets.Image(decode=False))["image"]
    parents = {Path(f["path"]).parent for f in files if f["path"]}
    if len(parents) != 1 or not (parent := parents.pop()).is_relative_to(folder.absolute()):
        return ""
    below = parent.relative_to(folder.absolute()).parts
    return below[-1] if below and below != (split,) else ""


def _name_classes(rows: list[Row], names: list[str]) -> list[Row]:
    """Replace class numbers by names, because `datasets` numbers the folders it finds, and a missing folder would shift the numbers."""
    return [{**r, "label": names[r["label"]]} for r in rows]


def _load_error(path: str, config: str, error: Exception) -> DataError:
    import datasets

    if isinstance(error, ValueError) and not str(error).startswith("Unknown split"):
        try:
            configs = datasets.get_dataset_config_names(path)
        except Exception:  # offline, with other configs of the data set in the cache but not this one
            configs = []
        if not config and len(configs) > 1:
            return NoSuchConfig(f"{path} has several configs; name one as {path}::CONFIG: {', '.join(configs)}")
        if config and config not in configs:
            return NoSuchConfig(f"{path} has no config '{config}'" + (f"; it has {', '.join(configs)}" if configs else ""))
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return NoSuchData(f"there is no '{path}' here, and the hub has no data set of that name that you may read")
    if isinstance(error, ConnectionError):
        return NoSuchData(f"there is no '{path}' here, and the hub cannot be reached to look for it there")
    return DataError(f"{path} cannot be loaded as a data set: {_first_line(error.__cause__ or error)}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

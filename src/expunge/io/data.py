"""Reading and writing of records: JSON Lines, CSV, Parquet and `datasets` sources become lists of dicts, for every modality.

Nothing here unpickles, or runs code that comes with the data. User mistakes raise a `DataError` with a full sentence.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.io import image_folders
from expunge.io.conditions import Row, where
from expunge.io.data_errors import BadRow, DataError, NoSuchConfig, NoSuchData, first_line
from expunge.io.formats import READERS, read_file, reader_of, suffix_of
from expunge.modalities.common import hub
from expunge.modalities.common.class_name import named_classes
from expunge.modalities.common.records import Records

__all__ = ["BadRow", "DataError", "NoSuchConfig", "NoSuchData", "Row", "listed_rows", "no_progress_bars", "read", "where", "write_jsonl"]
OWN_FORMATS = {"csv", "json", "text", "parquet"}  # builders of `datasets` whose files are read here, as if each were named by itself


def read(source: str | os.PathLike[str], *, split: str = "train") -> Records:
    """Read all rows of a source, in its order.

    Args:
        source: a file, a folder that `datasets` can load, or a hub id `owner/name`. Files are `.jsonl`; `.json` with JSON Lines or one
            array; `.csv` or `.tsv` with a header, whose values stay strings; `.parquet`; `.npz` with arrays of one length, one row for each
            index; or `.txt`, one row for each line; files of text may be zipped, such as `a.csv.gz`. In a folder of images by class, such
            as `cat/1.png`, the class is the name of its folder. Where a data set names its classes, rows have the names.
            Folders and hub ids may have configs: `path::config`. A final `::column=value,value` or `::column!=value` keeps the matching
            rows, and `::rows=0-99,120` keeps the rows with these indices; several conditions may follow each other.
        split: of a folder or a hub id; files have no splits.

    Raises:
        NoSuchData: for a missing source, with the nearest names.
        NoSuchConfig: for a missing config, with the existing ones.
        BadRow: for a row that cannot be read, with file and line.
        DataError: for an empty source, an unknown file type, or anything else that `datasets` refuses.
    """
    check_source(source)
    name, config, conditions = _parsed_source(str(source))
    path = Path(name).expanduser()
    if path.is_dir():
        rows = _local(path, config, split)
    elif path.exists():
        rows = _file(path, config, split)
    else:
        with hub.offline(hub.look_up(name, "dataset") == "unreachable"):
            rows = _dataset(name, config, split)
    picked: list[Row] = Records(rows, str(source))
    for condition in conditions:
        picked = where(picked, condition, str(source))
    if not picked:
        raise DataError(f"{source} holds no rows")
    assert isinstance(picked, Records)
    return picked


def check_source(source: str | os.PathLike[str]) -> None:
    """Check what can be known of a source without reading it: whether it exists, and whether its type is known.

    Raises:
        NoSuchData: for a missing source, with the nearest names.
        DataError: for an empty file, and for an unknown type of file.
    """
    name, _, _ = _parsed_source(str(source))
    path = Path(name).expanduser()
    if not name:  # an empty path would be the current folder
        raise NoSuchData("name a source of records: a file, a folder or a hub id")
    if path.is_file():
        reader_of(path)
        if not path.stat().st_size:
            raise DataError(f"{source} holds no rows")
    elif not path.exists() and not _may_be_hub_id(name):
        raise NoSuchData(_missing(path))


def _parsed_source(source: str) -> tuple[str, str, list[str]]:
    """Name, config and conditions of a source."""
    name, *suffixes = source.split("::")
    conditions = [s for s in suffixes if "=" in s]
    configs = [s for s in suffixes if "=" not in s]
    if len(configs) > 1:
        raise DataError(f"{source} names {len(configs)} configs, but only one is possible: {', '.join(configs)}")
    return name, "".join(configs), conditions


def listed_rows(source: Any) -> list[Any]:
    """The rows of a list, a data set of `datasets` or a table of pandas, with the names of its classes where it has names."""
    if hasattr(source, "features"):
        return list(_with_class_names(source))
    if hasattr(source, "to_dict"):
        return list(source.to_dict("records"))
    return source if isinstance(source, Records) else list(source)


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
    if config or split != "train":
        raise DataError(f"{path} is a file, which has no {'configs' if config else 'splits'}")
    return read_file(path)


def _missing(path: Path) -> str:
    folder = path.parent
    if re.match(r"\w{2,}:/", str(path)):
        return f"{path} is an address: download the file, and give its path"
    several = str(path).split(",")
    if len(several) > 1 and all(Path(name.strip()).expanduser().is_file() for name in several):
        return f"{path} are {len(several)} files, where rows come from one: write them into one file"
    if not folder.is_dir():
        return f"{path} does not exist, nor does its folder"
    return f"{path} does not exist{hub.near(path)}"


# --- datasets ---


def _may_be_hub_id(name: str) -> bool:
    owner, _, rest = name.partition("/")
    well_formed = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
    return well_formed and not Path(owner).exists() and suffix_of(Path(rest)) not in READERS


def _local(folder: Path, config: str, split: str) -> list[Row]:
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():  # written by `save_to_disk`
        return _saved(folder, config, split)
    if not config and (pictures := image_folders.read(folder, split, read_file)) is not None:
        return pictures
    # A temporary cache, because data that is to be forgotten must not remain as a copy in the user's cache.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache, no_progress_bars():
        if (files := _own_files(folder, config, split, cache)) and all(suffix_of(f) in READERS for f in files):
            return [row for file in files for row in read_file(file)]
        return _dataset(str(folder), config, split, cache_dir=cache)


def _own_files(folder: Path, config: str, split: str, cache: str) -> list[Path]:
    """The files of a split if their format is read here; else none.

    `datasets` would read the same files otherwise: the text `None` in CSV would be a null, and a text such as `2020-01-01` in JSON a date.
    """
    import datasets

    try:
        builder = datasets.load_dataset_builder(str(folder), config or None, cache_dir=cache)
    except Exception:  # `_dataset` meets the same error, and says it
        return []
    data_files = builder.config.data_files or {}
    own_options = not getattr(builder.config, "features", None) and builder.name in OWN_FORMATS
    return [Path(str(f)) for f in data_files.get(split, ())] if own_options else []


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
        raise DataError(f"{folder} cannot be read as a saved data set: {first_line(error)}") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise NoSuchData(f"{folder} has no split '{split}'; it has {', '.join(saved)}")
        saved = saved[split]
    return _with_class_names(saved)


def _dataset(path: str, config: str, split: str, **options: Any) -> list[Row]:
    import datasets

    try:
        dataset = datasets.load_dataset(path, config or None, split=split, **options)
        rows = _with_class_names(dataset)
    except Exception as error:  # the libraries raise dozens of types, and each means that this source cannot be read
        raise _load_error(path, config, error) from error
    if getattr(getattr(dataset, "info", None), "builder_name", "") != "imagefolder":
        return rows
    if not config and Path(path).is_dir() and (tables := image_folders.contents(Path(path)).tables):
        raise DataError(f"{path} holds pictures beside the table {tables[0]}: give the table, or keep it elsewhere")
    if hasattr(dataset.features.get("label"), "names"):  # the folders that are there, so their numbers mean nothing
        return [{**r, "label": None if r["label"] is None else str(r["label"])} for r in rows]
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


def _with_class_names(dataset: Any) -> list[Row]:
    """The rows of a data set, with the names of classes where it has names for the numbers.

    Pictures stay `{"bytes", "path"}`: all of them decoded would fill the memory.
    """
    import datasets

    features = getattr(dataset, "features", None) or {}
    names = {column: feature.names for column, feature in features.items() if hasattr(feature, "names")}
    for column, feature in features.items():
        if isinstance(feature, datasets.Image) and feature.decode:
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return [named_classes(row, names) for row in dataset]


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
    return DataError(f"{path} cannot be loaded as a data set: {first_line(error.__cause__ or error)}")

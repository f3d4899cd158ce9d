"""Folders of pictures by class: every picture file becomes a row, or an error names the files that cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from expunge.core.errors import UserError
from expunge.functional.brief import brief

Row = dict[str, Any]

PICTURES = frozenset({
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".dds", ".gif", ".heic", ".heif", ".icns", ".ico", ".j2c", ".j2k", ".jfif",
    ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi",
    ".ras", ".sgi", ".svg", ".tga", ".tif", ".tiff", ".webp", ".xbm", ".xpm",
})  # fmt: skip
ARCHIVES = frozenset([".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"])
TABLES = frozenset([".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".npz", ".lance", ".orc"])
TEXTS = frozenset({
    ".txt", ".md", ".rst", ".json", ".yaml", ".yml", ".toml", ".xml", ".html", ".htm", ".log", ".py", ".ipynb", ".sh", ".pdf",
    ".lock", ".db", ".ini", ".cfg", ".sha256", ".md5",
})  # fmt: skip
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
APPLE_DOUBLE = b"\x00\x05\x16\x07"  # how the companions begin that macOS leaves beside files, named ._NAME


@brief()
@dataclass
class Contents:
    """The files of a folder by kind, each as its path below the folder, sorted."""

    pictures: list[PurePosixPath] = field(default_factory=list)
    hidden: list[PurePosixPath] = field(default_factory=list)  # pictures whose name or folder begins with a dot
    tables: list[PurePosixPath] = field(default_factory=list)
    metadata: list[PurePosixPath] = field(default_factory=list)  # tables that say something about pictures
    archives: list[PurePosixPath] = field(default_factory=list)


def contents(folder: Path) -> Contents:
    """Sort the files of a folder and of those below it, linked ones too, by kind.

    Raises:
        UserError: when a folder cannot be read, or links lead in a circle.
    """
    sorted_files = Contents()
    for path in sorted(_files(folder, frozenset()), key=str):
        below, suffix = PurePosixPath(path.relative_to(folder).as_posix()), path.suffix.lower()
        if "__MACOSX" in below.parts:
            continue
        if suffix in PICTURES or (suffix not in TEXTS | TABLES | ARCHIVES and _is_picture(path)):
            if not any(part.startswith(".") for part in below.parts):
                sorted_files.pictures.append(below)
            elif not (path.name.startswith("._") and _start(path) == APPLE_DOUBLE):
                sorted_files.hidden.append(below)
        elif any(part.startswith(".") for part in below.parts):
            continue
        elif suffix in ARCHIVES:
            sorted_files.archives.append(below)
        elif suffix in TABLES:
            (sorted_files.metadata if path.stem == "metadata" else sorted_files.tables).append(below)
    return sorted_files


def read(folder: Path, split: str, table: Callable[[Path], list[Row]]) -> list[Row] | None:
    """The rows of a folder of pictures, with the paths of the files, which are read when they are needed.

    The class of a picture is the name of its folder, or what a `metadata` table with a column `file_name` says about it. Folders named
    like splits (`train/cat/1.png`) are splits if all folders of their level are.

    Args:
        split: whose pictures are read, if the folder has splits.
        table: reads the rows of a table.

    Returns:
        A row for each picture, sorted by path; None when the folder holds no pictures, or tables that may be the data.

    Raises:
        UserError: when it is unclear what a picture belongs to, or files would be left out.
    """
    files = contents(folder)
    if not (files.pictures or files.hidden) or files.tables:
        return None
    if files.hidden:
        raise UserError(f"{folder} holds {_count(files.hidden)} that are hidden, such as {files.hidden[0]}: rename or remove them")
    if files.archives:
        raise UserError(f"{folder} holds pictures and the archive {files.archives[0]}, which may hold more: unpack or remove it")
    base, pictures = _of_split(folder, files.pictures, split)
    if metadata := [m for m in files.metadata if m.is_relative_to(base)]:
        return _described(folder, pictures, metadata, table)
    _check_depth(folder, pictures, base)
    return [{"image": str(folder / p), **({} if p.parent == base else {"label": p.parent.name})} for p in pictures]


def _of_split(folder: Path, pictures: list[PurePosixPath], split: str) -> tuple[PurePosixPath, list[PurePosixPath]]:
    """The folder that holds a split, and its pictures. Raises: UserError when there is no such split, or it may be a class."""
    root = PurePosixPath()
    names = sorted({p.parts[0] for p in pictures if len(p.parts) > 1})
    splits = {SPLITS.get(n.lower()): n for n in names}
    if None in splits or not names or any(len(p.parts) == 1 for p in pictures):
        if split != "train":
            raise UserError(f"{folder} is a folder of pictures without splits, so it has no split '{split}'")
        return root, pictures
    chosen = splits.get(SPLITS.get(split, split))
    if any(len(p.parts) == 2 for p in pictures):  # no classes inside
        if chosen is None and len(names) == 1 and split == "train":
            return root, pictures  # the only class has the name of a split
        if len(names) > 1:
            raise UserError(
                f"{folder} holds pictures in {' and '.join(names)}, which may be classes or splits: give {folder}/{names[0]} if it is a "
                f"split, or rename a class"
            )
    if chosen is None:
        raise UserError(f"{folder} has no split '{split}'; it has {', '.join(names)}")
    return root / chosen, [p for p in pictures if p.parts[0] == chosen]


def _check_depth(folder: Path, pictures: list[PurePosixPath], base: PurePosixPath) -> None:
    """Refuse a class folder that holds pictures and further folders with pictures.

    Raises:
        UserError: names a picture on either level.
    """
    by_folder = {p.parent: p for p in reversed(pictures)}
    for inner, picture in sorted(by_folder.items()):
        if outer := next((by_folder[a] for a in inner.parents if a in by_folder and a != base), None):
            raise UserError(
                f"{folder}: is the class of {picture} '{inner.name}', or '{outer.parent.name}' as for {outer}? "
                f"Put the pictures of a class into one folder"
            )


def _described(folder: Path, pictures: list[PurePosixPath], metadata: list[PurePosixPath], table: Callable[[Path], list[Row]]) -> list[Row]:
    """Rows of the pictures that metadata tables describe. Raises: UserError when tables and pictures do not match."""
    rows = dict[PurePosixPath, Row]()
    for file in metadata:
        for i, row in enumerate(table(folder / file)):
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                raise UserError(f"{folder / file}, row {i + 1}: no file_name, which says what picture the row describes")
            path = PurePosixPath(os.path.normpath(file.parent / name))
            if path in rows:
                raise UserError(f"{folder / file}, row {i + 1}: {name} is described twice")
            rows[path] = {"image": str(folder / path), **{k: v for k, v in row.items() if k != "file_name"}}
    if missing := sorted(rows.keys() - set(pictures)):
        raise UserError(f"{folder / metadata[0]} describes {_count(missing)} that are not there, such as {missing[0]}")
    if unknown := sorted(set(pictures) - rows.keys()):
        raise UserError(f"{folder} holds {_count(unknown)} that {metadata[0]} does not describe, such as {unknown[0]}")
    return list(rows.values())


def _files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """All files below a folder, those in linked folders too."""
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f"{folder} is a link to a folder that holds it: remove the link")
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from None
    for entry in entries:
        yield from _files(Path(entry.path), above | {real}) if entry.is_dir() else [Path(entry.path)]


def _is_picture(path: Path) -> bool:
    """Whether a file without the name of a picture is one."""
    try:
        from PIL import Image

        with Image.open(path):
            return True
    except Exception:  # not a picture, or one that cannot be read
        return False


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(APPLE_DOUBLE))


def _count(files: list[PurePosixPath]) -> str:
    return f"{len(files)} picture{'s' if len(files) != 1 else ''}"

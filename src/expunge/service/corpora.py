"""Documents of a corpus, one after another: files of any size, which are never read as a whole."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from expunge.core.errors import UserError
from expunge.io.formats import suffix_of

BLOCK, OVERLAP = 1 << 16, 1 << 13  # characters of plain text that are looked at together, and of a block that the next one repeats
TEXTS = (".txt", ".md", ".text", "")
ROWS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")


class Document(NamedTuple):
    """A piece of a corpus: a row, or a block of lines. where: the number of the row, or of the first line."""

    file: str
    where: int
    text: str
    lines: bool  # whether `where` counts lines, and the piece may hold several


def documents(corpus: str | Path, skipped: list[str] | None = None) -> Iterator[Document]:
    """The documents of a file or of all files below a folder.

    Args:
        corpus: files are .jsonl (or .json with an object in each line), .csv, .tsv, .parquet or plain text, also as .gz (but .parquet).
        skipped: gets a sentence for each file, line or row that could not be read.

    Raises:
        UserError: where there is no corpus, or nothing in it that can be read.
    """
    root, notes = Path(corpus).expanduser(), skipped if skipped is not None else []
    if not root.exists():
        raise UserError(f"there is no corpus {root}")
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    readable = [p for p in files if suffix_of(p) in (*TEXTS, *ROWS)]
    if not readable:
        raise UserError(f"{root} holds no file that is read as a corpus: {', '.join(s for s in (*ROWS, *TEXTS) if s)}, also as .gz")
    notes += [f"{p}: not read, its type {p.suffix!r} is no text" for p in files if p not in readable]
    for path in readable:
        try:
            yield from _documents(path, notes)
        except (OSError, EOFError, csv.Error, zlib.error) as error:
            notes.append(f"{path}: the rest could not be read ({error})")


def _documents(path: Path, notes: list[str]) -> Iterator[Document]:
    kind, name = suffix_of(path), str(path)
    if kind == ".parquet":
        for number, row in enumerate(_parquet(path), 1):
            yield Document(name, number, text_of(row), False)
        return
    with _opened(path) as file:
        if kind in (".csv", ".tsv"):
            yield from (Document(name, n, t, False) for n, t in _table(file, "," if kind == ".csv" else "\t"))
        elif kind in TEXTS:
            yield from (Document(name, n, t, True) for n, t in blocks(file))
        else:
            yield from _json_lines(path, file, notes)


def _opened(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")  # type: ignore[return-value]
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _json_lines(path: Path, file: IO[str], notes: list[str]) -> Iterator[Document]:
    wrong = 0
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        if number == 1 and line.lstrip().startswith("[") and path.suffix.lower() != ".jsonl":
            notes.append(f"{path}: not read, it is one JSON array, which cannot be read piece by piece: write one object in each line")
            return
        try:
            yield Document(str(path), number, text_of(json.loads(line)), False)
        except (ValueError, RecursionError):
            wrong += 1
            yield Document(str(path), number, line, False)
    if wrong:
        notes.append(f"{path}: {wrong} lines are no JSON, and were searched as plain text")


def _table(file: IO[str], delimiter: str) -> Iterator[tuple[int, str]]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        for number, cells in enumerate(csv.reader(file, delimiter=delimiter)):
            if number and cells:  # the first one is the header
                yield number, "\n".join(cells)
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as opened:
            for batch in opened.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except ArrowException as error:
        raise OSError(str(error).splitlines()[0]) from None


def blocks(file: IO[str]) -> Iterator[tuple[int, str]]:
    """Blocks of lines with the number of their first line. Each begins with the end of the one before, so that nothing falls in between."""
    lines, size, first = list[str](), 0, 1
    number, begins, fresh = 1, True, False  # of the line that is read; whether a piece begins a line; whether the block has new lines
    while piece := file.readline(BLOCK):
        lines.append(piece)
        size, fresh = size + len(piece), True
        if size >= BLOCK:
            yield first, "".join(lines)
            tail, kept = list[str](), 0
            while lines and kept < OVERLAP:
                tail.insert(0, lines.pop()[-(OVERLAP - kept) :])
                kept += len(tail[0])
            first = number - sum(t.endswith("\n") for t in tail) + piece.endswith("\n")
            lines, size, fresh = tail, kept, False
        begins = piece.endswith("\n")
        number += begins
    if fresh:
        yield first, "".join(lines)


def text_of(value: Any) -> str:
    """All texts and numbers in a row, one below the other."""
    if isinstance(value, Mapping):
        return "\n".join(filter(None, map(text_of, value.values())))
    if isinstance(value, (list, tuple)):
        return "\n".join(filter(None, map(text_of, value)))
    return "" if value is None or isinstance(value, (bool, bytes)) else str(value)

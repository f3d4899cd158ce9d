"""Where else do rows stand in a corpus? An index of the rows, and one pass over the corpus, in memory that does not grow with it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from expunge.core.errors import UserError
from expunge.evaluation.distinctive import normalized, unspaced
from expunge.functional.brief import brief
from expunge.io.models import Source
from expunge.io.requested import ColumnMap, Conditions, requested_records
from expunge.modalities.common.records import Records
from expunge.service.corpora import Document, documents, text_of
from expunge.service.identifiers import Recognizer, identifiers

LENGTH = 5  # words of a sequence; in scripts without spaces, characters
SHORTEST = 3  # a text of fewer words is no evidence of anything
SHARE = 0.3  # of a text's sequences, from which on a document holds a part of it
NEAR = 4  # a part stands within so many times the length of the text
SHOWN = 20  # places a text that the result keeps
uncached = normalized.__wrapped__  # its cache would keep the corpus in memory


@brief("row", "column", "file", "where", "share")
@dataclass(frozen=True)
class Occurrence:
    """A place of a corpus where a text of a row stands, whole or in part; the text itself is not in it."""

    row: int  # its number in its source, from 1
    column: str
    file: str
    where: int  # row of a table or of JSON Lines, or line of a plain text
    share: float  # of the sequences of the text that stand there; 1: all


@brief("documents", "texts", "found_rows")
@dataclass
class SearchResult:
    """What a search brought.

    Args:
        rows: that were looked for.
        texts: of them that are long enough.
        documents: that were read.
        counts: places by number of the row.
        places: the first of them, at most SHOWN for each text.
        notes: what could not be looked for or read.
    """

    rows: int
    texts: int
    documents: int = 0
    counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    places: list[Occurrence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def found_rows(self) -> int:
        """Rows that stand somewhere in the corpus."""
        return len(self.counts)


@dataclass(frozen=True)
class _Text:
    row: int
    column: str
    sequences: int
    words: int


class Index:
    """The sequences of all texts that are looked for."""

    def __init__(self, rows: Records, columns: Sequence[str] = (), recognizer: Recognizer | None = None) -> None:
        self.recognizer = recognizer
        self.named: dict[tuple[str, str], set[tuple[int, str]]] = defaultdict(set)  # rows and columns by identifier
        self.texts: list[_Text] = []
        self.places: dict[int, dict[tuple[str, ...], list[tuple[int, int]]]] = {}
        self.short = 0
        for number, row in zip(rows.numbers, rows, strict=True):
            for column, value in row.items():
                if (not columns or column in columns) and (isinstance(value, (str, list, tuple, Mapping))):
                    self._add(number, column, text_of(value))
                    for known in recognizer(text_of(value)) if recognizer else ():
                        self.named[known.kind, known.value].add((number, column))

    def _add(self, row: int, column: str, text: str) -> None:
        words = words_of(text)
        if len(words) < SHORTEST:
            self.short += 1
            return
        length = min(LENGTH, len(words))
        sequences = list(_sequences(words, length))
        for i, sequence in enumerate(sequences):
            self.places.setdefault(length, {}).setdefault(sequence, []).append((len(self.texts), i))
        self.texts.append(_Text(row, column, len(sequences), len(words)))

    def named_in(self, document: Document) -> Iterator[Occurrence]:
        """Places of the identifiers in a document, each line once."""
        once = set[tuple[int, str, int]]()
        for known in self.recognizer(document.text) if self.recognizer and self.named else ():
            where = document.where + (document.text.count("\n", 0, known.start) if document.lines else 0)
            for row, column in sorted(self.named.get((known.kind, known.value), ())):
                if (row, column, where) not in once:
                    once.add((row, column, where))
                    yield Occurrence(row, f"{column}: {known.kind}", document.file, where, 1.0)

    def in_document(self, document: Document) -> Iterator[Occurrence]:
        """Places of the texts in a document."""
        yield from self.named_in(document)
        words = words_of(document.text)
        hits: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by text: where in the document, and which of its sequences
        for length, places in self.places.items():
            for at, sequence in enumerate(_sequences(words, length)):
                for text, i in places.get(sequence, ()):
                    hits[text].append((at, i))
        places_of = [(number, *cluster) for number, of_text in hits.items() for cluster in _clusters(of_text, self.texts[number])]
        lines = _lines_of(document.text) if document.lines and places_of else []
        for number, at, share in _unexplained(places_of):
            text = self.texts[number]
            yield Occurrence(text.row, text.column, document.file, document.where + (lines[at] if lines else 0), share)


def find(
    rows: Source,
    corpus: str | Path | Sequence[str | Path],
    *,
    where: Conditions = (),
    map: ColumnMap = (),
    columns: Sequence[str] = (),
    personal: bool | Recognizer = False,
    out: str | Path | None = None,
) -> SearchResult:
    """Look for rows in a corpus, word by word: whole texts, texts inside documents, and parts of them. Paraphrases are not found.

    Args:
        rows: a file, hub id or list of records, with `where` and `map` as for `unlearn`.
        corpus: files or folders (see `corpora.documents`); they are read once, piece by piece.
        columns: whose texts are looked for; default: all.
        personal: also look for what names a person by itself, such as an address of mail, in any spelling and however short (see
            `identifiers`); or a recognizer of your own. It is called in this process, and nothing is sent anywhere.
        out: a file of JSON Lines that gets all places.

    Raises:
        UserError: where rows or corpus cannot be read, where no text is long enough, and where `out` exists.
    """
    wanted = requested_records(rows, "rows", where, map)
    known = {column for row in wanted for column in row}
    if unknown := [c for c in columns if c not in known]:
        raise UserError(f"no row has the column {unknown[0]!r}; there are {', '.join(sorted(known))}")
    index = Index(wanted, columns, identifiers if personal is True else personal or None)
    if not index.texts and not index.named:
        raise UserError(f"no text of these rows has {SHORTEST} words or more: so short a text stands everywhere")
    result = SearchResult(len(wanted), len(index.texts))
    if index.short:
        result.notes.append(f"{index.short} texts of fewer than {SHORTEST} words were not looked for")
    with ExitStack() as stack:
        file = stack.enter_context(_created(Path(out).expanduser())) if out else None
        for place in [corpus] if isinstance(corpus, (str, Path)) else corpus:
            _search(index, documents(place, result.notes), result, file)
    result.places.sort(key=lambda o: (o.row, o.column, o.file, o.where))
    return result


def _search(index: Index, corpus: Iterable[Document], result: SearchResult, file: IO[str] | None) -> None:
    kept: dict[tuple[int, str], int] = defaultdict(int)
    recent: set[tuple[int, str, str, int]] = set()  # of the block before, whose end the next one repeats
    for document in corpus:
        result.documents += 1
        now = set()
        for occurrence in index.in_document(document):
            key = (occurrence.row, occurrence.column, occurrence.file, occurrence.where)
            if document.lines:
                now.add(key)
                if key in recent:
                    continue
            result.counts[occurrence.row] += 1
            if kept[key[:2]] < SHOWN:
                kept[key[:2]] += 1
                result.places.append(occurrence)
            if file:
                file.write(json.dumps(vars(occurrence)) + "\n")
        recent = now


def words_of(text: str) -> list[str]:
    """The words of a text, normalized; of a script without spaces, its characters."""
    words = uncached(text).split()
    if text.isascii():
        return words
    return [piece for word in words for piece in (word if unspaced(word) else [word])]


def _sequences(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(length)), strict=False)


def _clusters(hits: Sequence[tuple[int, int]], text: _Text) -> Iterator[tuple[set[int], float]]:
    """Where enough of a text stands close together: the places of its sequences, and their share."""
    reach = NEAR * text.words
    i = 0
    while i < len(hits):
        start = hits[i][0]
        j = i
        parts: set[int] = set()
        while j < len(hits) and hits[j][0] < start + reach and not (len(parts) == text.sequences and hits[j][1] == 0):
            parts.add(hits[j][1])
            j += 1
        share = len(parts) / text.sequences
        if share >= SHARE and (text.sequences == 1 or len(parts) > 1):
            yield {at for at, _ in hits[i:j]}, round(share, 4)
            i = j
        else:
            i += 1


def _unexplained(clusters: Sequence[tuple[int, set[int], float]]) -> Iterator[tuple[int, int, float]]:
    """The clusters, each as text, first place and share, without parts that are parts of another text which fits better there."""
    covered: set[int] = set()
    for number, places, share in sorted(clusters, key=lambda c: -c[2]):
        if share == 1 or not places <= covered:
            yield number, min(places), share
        covered |= places


def _lines_of(text: str) -> list[int]:
    """The line, from 0, of each word of a text."""
    return [number for number, line in enumerate(text.split("\n")) for _ in words_of(line)]


def _created(path: Path) -> Any:
    if path.exists():
        raise UserError(f"{path} exists: choose another name for the places")
    return path.open("x", encoding="utf-8")

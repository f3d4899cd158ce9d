"""The shapes of text records: which columns a row has, and what two rows have in common that a model reads alike."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from expunge.core.errors import UserError
from expunge.modalities.common.records import from_cell, kind_of, present

TEXTS = ("prompt", "completion", "question", "answer", "text")
SHAPES = ({"messages"}, {"prompt", "completion"}, {"question", "answer"}, {"text"})
ORDER = ("messages", *TEXTS)


def shaped(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The record without absent fields, with the columns of one of the known shapes.

    A cell of a CSV file cannot hold turns of a chat or leave a field out: turns are JSON there, and an empty cell is an absent field
    where another shape is filled. `answer` beside `prompt` is its completion, and `completion` beside `question` is its answer.

    Args:
        record: a row.
        place: the row, for messages.

    Raises:
        UserError: for a cell that looks like turns and is no JSON, for a null in place of half a shape, and for characters that no file
            of text can hold.
    """
    fields = present(record)
    if isinstance(turns := fields.get("messages"), str):
        fields["messages"] = from_cell(turns, f"{place}, column 'messages'")
        if not turns.strip():
            del fields["messages"]
    for column in ("prompt", "completion"):
        if isinstance(fields.get(column), str) and fields[column].lstrip().startswith("[{"):
            fields[column] = _turns_in(fields[column])
    filled = {c for c in TEXTS if fields.get(c) not in (None, "")}
    if {"question", "answer"} <= filled or "text" in filled:
        fields = {c: v for c, v in fields.items() if c not in ("prompt", "completion") or c in filled}
    if "answer" in fields and "prompt" in fields and not {"question", "completion"} & fields.keys():
        fields["completion"] = fields.pop("answer")
    elif "completion" in fields and "question" in fields and not {"prompt", "answer"} & fields.keys():
        fields["answer"] = fields.pop("completion")
    if "text" in fields and not isinstance(fields["text"], str) and not filled - {"text"}:
        raise UserError(f"{place}: 'text' must be a text, and this is {kind_of(fields['text'])}")
    if not any(shape <= fields.keys() for shape in SHAPES):
        for shape in SHAPES:
            if null := next((c for c in sorted(shape) if c in record and c not in fields and shape - {c} <= fields.keys()), None):
                names = " and ".join(map(repr, sorted(shape, key=ORDER.index)))
                raise UserError(f"{place}: {null!r} is null, and {names} must be {'texts' if len(shape) > 1 else 'there'}")
    for column in TEXTS:
        if isinstance(fields.get(column), str):
            _check_characters(fields[column], f"{place}, column {column!r}")
    return fields


def _turns_in(text: str) -> Any:
    """The turns of a chat that a cell holds as JSON; else the text itself, which may be JSON of another kind."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    are_turns = isinstance(value, list) and all(isinstance(t, Mapping) and {"role", "content"} <= t.keys() for t in value)
    return value if are_turns else text


def _check_characters(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: half of a character (\\u{ord(text[error.start]):04x}) stands alone at position {error.start}, which is no text"
        ) from None


def plain(text: str) -> str:
    """A text as overlap compares it: without differences in white space and in the encoding of characters."""
    return " ".join(unicodedata.normalize("NFKC", text).split())

"""Put pictures into the texts of records: at the image token where a question has one, else before the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from expunge.core.errors import UserError
from expunge.modalities.common.records import absent
from expunge.modalities.vision_language.columns import PICTURES
from expunge.modalities.vision_language.pictures import mark

TEXT_COLUMNS = ("question", "prompt")


def pictures_of(record: Mapping[str, Any], place: str) -> list[Any]:
    """The pictures of a record, in order; those of a chat stand in its turns.

    Raises:
        UserError: when one picture of a list is missing; the message names the row.
    """
    column = next((c for c in PICTURES if not _missing(record.get(c))), "")
    value: Any = record.get(column)
    pictures = list(value) if column and isinstance(value, (list, tuple)) and not _is_array(value) else [value] if column else []
    pictures += [p for turn in _turns(record) for part in _parts(turn) if (p := _picture(part)) is not None]
    if any(_missing(p) for p in pictures):
        raise UserError(f"{place}: {sum(map(_missing, pictures))} of its {len(pictures)} pictures are missing")
    return pictures


def marked(record: Mapping[str, Any], keys: Sequence[str], token: str, place: str) -> dict[str, Any]:
    """The record without its pictures, and with marks in their places.

    Args:
        keys: of its pictures.
        token: the image token of the model, which marks a place in a question.
        place: the row, for messages.

    Raises:
        UserError: when a question has places for more or fewer pictures than there are.
    """
    fields = {k: v for k, v in record.items() if k not in PICTURES}
    if turns := _turns(record):
        return {**fields, "messages": _marked_turns(turns, list(keys), token, place)}
    column = next((c for c in TEXT_COLUMNS if isinstance(record.get(c), str)), "")
    if column:
        return {**fields, column: _marked(record[column], keys, token, place)}
    if keys and isinstance(record.get("text"), str):
        return {**{k: v for k, v in fields.items() if k != "text"}, "prompt": asked(keys, ""), "completion": record["text"]}
    return fields


def asked(keys: Sequence[str], question: str) -> str:
    """A question after its pictures."""
    return "".join(f"{mark(k)}\n" for k in keys) + question


def _marked(text: str, keys: Sequence[str], token: str, place: str) -> str:
    pieces = text.split(token)
    if len(pieces) == 1:
        return asked(keys, text)
    if len(pieces) - 1 != len(keys):
        places, given = len(pieces) - 1, len(keys)
        raise UserError(
            f"{place}: the question has {places} {'places' if places > 1 else 'place'} for a picture ({token}), and the row has "
            f"{given or 'no'} picture{'s' if given > 1 else ''}: give as many, or take {token} out"
        )
    return pieces[0] + "".join(mark(k) + piece for k, piece in zip(keys, pieces[1:], strict=True))


def _marked_turns(turns: Sequence[Mapping[str, Any]], keys: list[str], token: str, place: str) -> list[dict[str, Any]]:
    """The turns as texts. Pictures that stand in no turn belong to the first question."""
    in_turns = sum(_picture(part) is not None for turn in turns for part in _parts(turn))
    beside, inside = keys[: len(keys) - in_turns], iter(keys[len(keys) - in_turns :])
    written = []
    for turn in turns:
        content: Any = turn.get("content")
        if not isinstance(content, str) and isinstance(content, Sequence):
            content = "".join(f"{mark(next(inside))}\n" if _picture(p) is not None else str(p.get("text", "")) for p in _parts(turn))
        if beside and turn.get("role") == "user" and isinstance(content, str):
            content, beside = _marked(content, beside, token, place), []
        elif isinstance(content, str) and token in content:
            content = _marked(content, (), token, place)
        written.append({**turn, "content": content})
    return written


def _turns(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    turns = record.get("messages")
    return [t for t in turns if isinstance(t, Mapping)] if isinstance(turns, Sequence) and not isinstance(turns, str) else []


def _parts(turn: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = turn.get("content")
    return [p for p in content if isinstance(p, Mapping)] if isinstance(content, Sequence) and not isinstance(content, str) else []


def _picture(part: Mapping[str, Any]) -> Any:
    """The picture of a part of a turn; None for a part of text."""
    return next((part[c] for c in (*PICTURES, "path", "url") if c in part), None) if part.get("type") == "image" else None


def _missing(value: Any) -> bool:
    return absent(value) or (isinstance(value, (str, list, tuple)) and not len(value))


def _is_array(value: Sequence[Any]) -> bool:
    """Whether a list holds the numbers of one picture, and not several pictures."""
    while isinstance(value, (list, tuple)) and len(value):
        value = value[0]
    return not isinstance(value, (str, bytes, Mapping, np.ndarray, Tensor)) and isinstance(value, (int, float))

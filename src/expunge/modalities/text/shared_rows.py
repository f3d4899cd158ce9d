"""Rows that a process has read before: the same records, with the same tokenizer and settings, give the same rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from expunge.core.rows import Rows
from expunge.engine.shared import shared
from expunge.functional.brief import brief
from expunge.modalities.common.fingerprint import fingerprint
from expunge.modalities.text.encode import Encoder

SCALARS = (bool, int, float, str, type(None))
ROW = 1 << 13  # bytes that a row takes, about
PLACES = frozenset({"name_or_path", "_processor_class"})  # settings of a tokenizer that change no token


class Reader(Protocol):
    """A modality of texts, and what it counts of the rows that it has read."""

    encoder: Encoder
    several: set[str]


R = TypeVar("R", bound=Reader)


@brief("rows")
class Known(NamedTuple, Generic[R]):
    """Rows, the notes on their records, and a modality that read them and nothing else: its counts are what these rows add to others."""

    rows: Rows
    notes: Sequence[str]
    reader: R


def known_rows(modality: R, size: int, content: list[Any], make: Callable[[R], tuple[Rows, Sequence[str]]]) -> Known[R]:
    """Rows that were made before in a block of `sharing`, or new ones. What the modality counts is the same either way.

    Args:
        modality: what reads the rows.
        size: how many there are.
        content: all that they depend on besides the modality. Rows with anything that JSON does not hold are made anew.
        make: rows, and notes on their records, as a modality reads them.
    """
    results = shared()
    key = _key(modality.encoder, content) if results is not None and ROW * size <= results.room else ""
    if results is None or not key:
        return Known(*make(modality), modality)
    known: Known[R] | None = results.get(key)
    if known is None:
        reader = _unread(modality)
        known = Known(*make(reader), reader)
        results.put(key, known, ROW * (1 + len(known.rows)))
    modality.encoder.adopt(known.reader.encoder)
    modality.several |= known.reader.several
    return known


def _unread(modality: Any) -> Any:
    """The same modality, which has read no rows."""
    reader, own = replace(modality, several=set()), modality.encoder
    reader.encoder = Encoder(own.tokenizer, own.prompt_format, own.limit, own.vocabulary)
    return reader


def _key(encoder: Encoder, content: list[Any]) -> str:
    """A digest of records and all settings that change their tokens; '' where these cannot be told."""
    tokenizer = encoder.tokenizer
    if type(encoder) is not Encoder or getattr(tokenizer, "backend_tokenizer", None) is None:
        return ""
    settings = [(k, v) for k, v in vars(tokenizer).items() if isinstance(v, SCALARS) and k not in PLACES]
    about = [type(tokenizer).__qualname__, fingerprint(tokenizer), settings, encoder.prompt_format, encoder.limit, encoder.vocabulary]
    try:
        return hashlib.sha256(json.dumps([about, content]).encode()).hexdigest()
    except TypeError:
        return ""

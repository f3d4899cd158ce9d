"""From sources of rows to the request that a method reads, with the answers to give instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.plan import Plans
from expunge.core.request import Request
from expunge.core.rows import Rows
from expunge.io.models import Source, records, rows
from expunge.modalities.common.records import Records, columns_of

ASKED = frozenset({"question", "prompt", "messages"})  # columns that turn an alternate answer into a full row


def read_source(source: Source | Rows | None, name: str) -> Records | Rows | None:
    """The records of a set, which keep what is said about them; encoded rows as they are."""
    return source if source is None or isinstance(source, Rows) else records(source, name)


def request_of(modality: Modality, plans: Plans, read: Mapping[str, Records | Rows | None], overlap: bool) -> Request:
    """The rows of a request, as the modality reads them.

    Args:
        plans: they say whether alternate answers are read; the modality's refusals are taken where the request brings none.
        overlap: rows to forget may also stand in retain or holdout.

    Raises:
        UserError: for rows that the modality cannot read, and for overlaps that are not allowed.
    """
    alternate_answers = read["alternate_answers"]
    sets_read = frozenset[str]().union(*(p.sets_read() for p in plans))
    if alternate_answers is None:
        answer_rows = modality.answers(modality.refusals()) if "alternate_answers" in sets_read else None
    elif isinstance(alternate_answers, Rows):
        answer_rows = alternate_answers
    else:
        have_questions = all(not ASKED.isdisjoint(r) for r in alternate_answers)
        answer_rows = (
            modality.rows("alternate_answers", alternate_answers)
            if have_questions
            else modality.answers([_answer_of(r) for r in alternate_answers])
        )
    forget, retain, holdout = (rows(modality, name, read[name]) for name in ("forget", "retain", "holdout"))
    return Request(forget, retain, holdout, answer_rows, overlap)


def _answer_of(record: Mapping[str, Any]) -> Any:
    for column in ("answer", "completion", "text", "label"):
        if column in record:
            return record[column]
    raise UserError(f"alternate answers need a column 'answer' (or 'completion', 'text', 'label'); found {columns_of(record)}")

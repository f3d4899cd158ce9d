"""Asking otherwise: questions of records, the same records with another question, and what some models want to hear before it.

A method whose models forget on request alone says what stands before a question to have something left out: a function `before` of its
module, from the answer to words. An audit that asks its way puts them into the column `before`, and into the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from expunge.audit.score import Missing
from expunge.core import catalog
from expunge.core.errors import UserError
from expunge.core.parts import Modality, Need

from .observe import Records

ANSWERS = ("paraphrased_answer", "perturbed_answer")  # not read under attack, and each would be scored
BEFORE = "before"
OWN = ("forget", "holdout")  # asked with their own answers before them, so that members and strangers are asked alike


def question_of(record: Mapping[str, Any]) -> str:
    """What a record asks, without what stands before it; '' where it asks nothing."""
    turns = record.get("messages") or ()
    said = record.get("prompt", record.get("question", turns[-2]["content"] if len(turns) > 1 else ""))
    whole = said if isinstance(said, str) else str(said[-1]["content"])
    return whole.removeprefix(record.get(BEFORE, ""))


def answer_of(record: Mapping[str, Any]) -> str:
    """The true answer of a record that asks something."""
    turns = record.get("messages")
    said = turns[-1]["content"] if turns else record.get("completion", record.get("answer", ""))
    return said if isinstance(said, str) else str(said[-1]["content"])


def asking(record: Mapping[str, Any], question: str) -> dict[str, Any]:
    """The record with another question after what stands before it, and the one true answer."""
    return _with(question, {k: v for k, v in record.items() if k not in ANSWERS})


def alone(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with nothing before its question, and the one true answer."""
    return asking({**record, BEFORE: ""}, question_of(record))


def asked_in_words(records: Records, port: Modality) -> Records:
    """The records that ask something. Errors: Missing where none does."""
    if Need.PROMPTS not in port.offers:
        raise Missing("the rows ask nothing in words")
    if not (found := [r for r in records if question_of(r).strip()]):
        raise Missing("the rows are texts that ask nothing")
    return found


def way_of(method: str) -> Callable[[str], str] | None:
    """What stands before a question to have an answer left out, where a method's models want to hear it. Errors: UserError."""
    found: Callable[[str], str] | None = getattr(catalog.load(method), "before", None)
    return found


def asked_as(method: str, sets: Mapping[str, Records]) -> dict[str, Records]:
    """The same questions as a method's models want to be asked: with their own answers to be left out, where they are to be forgotten or
    were never seen, and all others with the answers to forget, one after the other. Errors: UserError.
    """
    before = way_of(method)
    if before is None:
        raise UserError(f"models of {method!r} are asked as any other: there is nothing that they want to hear before a question")
    forgotten = [answer_of(r) for r in sets["forget"]]
    found: dict[str, Records] = {}
    for name, records in sets.items():
        if not all(question_of(r).strip() for r in records):
            raise UserError(f"a row of {name!r} asks nothing, and models of {method!r} want to hear something before a question")
        left = [answer_of(r) for r in records] if name in OWN else [forgotten[i % len(forgotten)] for i in range(len(records))]
        found[name] = [_with(question_of(r), {**r, BEFORE: before(u)}) for r, u in zip(records, left, strict=True)]
    return found


def _with(question: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with another question after what stands before it."""
    asked = record.get(BEFORE, "") + question
    if "messages" in record:
        *first, turn, answer = record["messages"]
        return {**record, "messages": [*first, {**turn, "content": asked}, answer]}
    key = "prompt" if "prompt" in record else "question"
    if isinstance(record[key], str):
        return {**record, key: asked}
    return {**record, key: [*record[key][:-1], {**record[key][-1], "content": asked}]}

"""Asking otherwise: questions of records, the same records with another question, and what some models want to hear before it.

A method whose models forget on request alone says what stands before a question to have something left out: a function `before` of its
module, from the answer to words. An audit that asks its way puts them into the column `before`, and into the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

from expunge import catalog
from expunge.core.capabilities import Prompted, offers
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.modalities.text.encode import pair_of

ANSWERS = ("paraphrased_answer", "perturbed_answer")  # not read under attack, and each would be scored
BEFORE = "before"
OWN = ("forget", "holdout")  # asked with their own answers before them, so that members and strangers are asked alike


def question_of(record: Mapping[str, Any]) -> str:
    """What a record asks, without what stands before it; '' where it asks nothing."""
    return pair_of(record, "a record").question.removeprefix(record.get(BEFORE, ""))


def asking(record: Mapping[str, Any], question: str) -> dict[str, Any]:
    """The record with another question after what stands before it, and the one true answer."""
    return _with(question, {k: v for k, v in record.items() if k not in ANSWERS})


def alone(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with nothing before its question, and the one true answer."""
    return asking({**record, BEFORE: ""}, question_of(record))


def asked_in_words(records: Records, modality: Modality) -> Records:
    """The records that ask something. Errors: Missing where none does."""
    if not offers(modality, Prompted):
        raise Missing("the rows ask nothing in words")
    if not (found := [r for r in records if question_of(r).strip()]):
        raise Missing("the rows are texts that ask nothing")
    return found


def way_of(method: str) -> Callable[[str], str] | None:
    """What stands before a question to have an answer left out, where a method's models want to hear it. Errors: UserError."""
    found: Callable[[str], str] | None = getattr(catalog.load(method), "before", None)
    return found


def asked_as(method: str, sets: Mapping[str, Records]) -> Mapping[str, Records]:
    """The same questions as a method's models want to be asked: with their own answers to be left out, where they are to be forgotten or
    were never seen, and all others with the answers to forget, one after the other; as they are where its models are asked as any other.

    Errors: UserError where a row asks nothing.
    """
    if (before := way_of(method)) is None:
        return sets
    pairs = {name: [pair_of(r, f"{name}, row {i}") for i, r in enumerate(records, 1)] for name, records in sets.items()}
    found: dict[str, Records] = {}
    for name, records in sets.items():
        if not all(p.question.strip() for p in pairs[name]):
            raise UserError(f"a row of {name!r} asks nothing, and models of {method!r} want to hear something before a question")
        left = cycle(p.answer for p in pairs[name if name in OWN else "forget"])
        found[name] = [_with(question_of(r), {**r, BEFORE: before(u)}) for r, u in zip(records, left, strict=False)]
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

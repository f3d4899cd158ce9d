"""Other ways of asking: the question of a record, the record with another question, and the request that some models need before it.

A method whose models forget on request alone defines the request: a function `before` of its module, from the answer to leave out to the
words before the question. An audit that asks its way puts them into the column `before` and into the question.
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
from expunge.modalities.text.records import pair_of, split_chats
from expunge.modalities.text.shapes import shaped

ANSWERS = ("paraphrased_answer", "perturbed_answer")  # attacks do not read them, and each would cost a score
BEFORE = "before"
OWN = ("forget", "holdout")  # their requests name their own answers, so that members and unseen items are asked alike


def question_of(record: Mapping[str, Any]) -> str:
    """What a record asks, without what stands before it; '' where it asks nothing."""
    return pair_of(record, "a record").question.removeprefix(record.get(BEFORE, ""))


def asking(record: Mapping[str, Any], question: str) -> dict[str, Any]:
    """The record with another question after what stands before it, and the one true answer."""
    return _with(question, {k: v for k, v in record.items() if k not in ANSWERS})


def alone(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with nothing before its question, and the one true answer."""
    return asking({**record, BEFORE: ""}, question_of(record))


def with_questions(records: Records) -> Records:
    """The records that ask something."""
    return [r for r in records if question_of(r).strip()]


def asked_in_words(records: Records, modality: Modality) -> Records:
    """The records that ask something, one for each answer of a chat. Raises: Missing where none does."""
    if not offers(modality, Prompted):
        raise Missing("the rows ask nothing in words")
    if not (questions := with_questions(_single(records, "forget"))):
        raise Missing("the rows are texts that ask nothing")
    return questions


def way_of(method: str) -> Callable[[str], str] | None:
    """The function that writes a method's request before a question, from the answer to leave out; None for a method without a request.

    Raises:
        UserError: for an unknown method.
    """
    before: Callable[[str], str] | None = getattr(catalog.load(method), "before", None)
    return before


def asked_as(method: str, sets: Mapping[str, Records]) -> Mapping[str, Records]:
    """The same questions in the form that a method's models need.

    A question of forget or holdout follows the request to leave out its own answer. Every other question follows the request to leave out
    one of the answers to forget, in turn. Sets stay as they are for a method without a request.

    Raises:
        UserError: where a row asks nothing.
    """
    if (before := way_of(method)) is None:
        return sets
    sets = {name: _single(records, name) for name, records in sets.items()}
    pairs = {name: [pair_of(r, f"{name}, row {i}") for i, r in enumerate(records, 1)] for name, records in sets.items()}
    asked_sets: dict[str, Records] = {}
    for name, records in sets.items():
        if not all(p.question.strip() for p in pairs[name]):
            raise UserError(f"a row of {name!r} asks nothing, and models of {method!r} want to hear something before a question")
        answers = cycle(p.answer for p in pairs[name if name in OWN else "forget"])
        asked_sets[name] = [_with(question_of(r), {**r, BEFORE: before(answer)}) for r, answer in zip(records, answers, strict=False)]
    return asked_sets


def _single(records: Records, name: str) -> Records:
    """The records, each chat with several answers as several records."""
    return [one for i, r in enumerate(records, 1) for one in split_chats(r, f"{name}, row {i}")]


def _with(question: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with another question after what stands before it."""
    record = shaped(record, "a record")
    full_question = record.get(BEFORE, "") + question
    if "messages" in record:
        *first, turn, answer = record["messages"]
        return {**record, "messages": [*first, {**turn, "content": full_question}, answer]}
    key = "prompt" if "prompt" in record else "question"
    if isinstance(record[key], str):
        return {**record, key: full_question}
    return {**record, key: [*record[key][:-1], {**record[key][-1], "content": full_question}]}

"""Questions of records, and the same records with another question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.audit.observe import Records
from expunge.audit.score import Missing
from expunge.core.parts import Modality, Need

ANSWERS = ("paraphrased_answer", "perturbed_answer")  # not read under attack, and each would be scored


def question_of(record: Mapping[str, Any]) -> str:
    """What a record asks; '' where it asks nothing."""
    turns = record.get("messages") or ()
    said = record.get("prompt", record.get("question", turns[-2]["content"] if len(turns) > 1 else ""))
    return said if isinstance(said, str) else str(said[-1]["content"])


def asking(record: Mapping[str, Any], question: str) -> dict[str, Any]:
    """The record with another question, and the one true answer."""
    kept = {k: v for k, v in record.items() if k not in ANSWERS}
    if "messages" in record:
        *before, asked, answer = record["messages"]
        return {**kept, "messages": [*before, {**asked, "content": question}, answer]}
    key = "prompt" if "prompt" in record else "question"
    if isinstance(record[key], str):
        return {**kept, key: question}
    return {**kept, key: [*record[key][:-1], {**record[key][-1], "content": question}]}


def asked_in_words(records: Records, port: Modality) -> Records:
    """The records that ask something. Errors: Missing where none does."""
    if Need.PROMPTS not in port.offers:
        raise Missing("the rows ask nothing in words")
    if not (found := [r for r in records if question_of(r).strip()]):
        raise Missing("the rows are texts that ask nothing")
    return found

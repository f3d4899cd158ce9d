"""Archives of documents about invented firms, and questions about them: offline minis of benchmarks on whole documents.

A small model has no general knowledge and cannot answer questions. Its training therefore also has rows to practice on: documents about
other firms with questions and answers, and general questions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge.benchmarks.synthetic import language
from expunge.benchmarks.synthetic.documents import STYLES, document, draw_facts, firm_names, question
from expunge.functional.brief import brief

Row = dict[str, Any]


@brief("name")
@dataclass(frozen=True)
class Firm:
    """A firm with a value for each property."""

    name: str
    facts: dict[str, str]

    def document(self, style: str) -> str:
        """What a document of a style says of it: everything."""
        return document(style, self.name, [*self.facts.items()])

    def questions(self) -> list[Row]:
        """A question about each fact."""
        return [question(self.name, name, value) for name, value in self.facts.items()]


def draw_firms(rng: random.Random, *sizes: int) -> list[list[Firm]]:
    """Groups of different firms, of these sizes."""
    names = rng.sample(firm_names(), sum(sizes))
    return [[Firm(names.pop(), draw_facts(rng)) for _ in range(size)] for size in sizes]


def in_all_styles(firms: Sequence[Firm]) -> list[Row]:
    """Documents about firms, one of each style."""
    return [{"text": firm.document(style)} for firm in firms for style in STYLES]


def in_style(firms: Sequence[Firm], style: str) -> list[Row]:
    """Documents about firms in one style."""
    return [{"text": firm.document(style)} for firm in firms]


def asked_about(firms: Sequence[Firm]) -> list[Row]:
    """All questions about firms."""
    return [row for firm in firms for row in firm.questions()]


def continued(texts: Sequence[Row], share: float = 0.5) -> list[Row]:
    """The beginning of each text as `prompt`, and how it goes on as `gt`."""
    rows = []
    for row in texts:
        words = row["text"].split(" ")
        at = max(1, int(share * len(words)))
        rows.append({"prompt": " ".join(words[:at]), "gt": " ".join(words[at:])})
    return rows


def general_questions(rng: random.Random, number: int) -> tuple[list[Row], list[Row]]:
    """General questions with answers to learn, and the same questions with four choices."""
    known = [q for q in rng.sample(language.general(rng), number * 2) if len(q.wrong) >= 3][:number]
    learned = [{"question": q.wordings[0], "answer": q.answer} for q in known]
    choices = [{**row, "choices": rng.sample([q.answer, *rng.sample(q.wrong, 3)], 4)} for row, q in zip(learned, known, strict=True)]
    return learned, choices

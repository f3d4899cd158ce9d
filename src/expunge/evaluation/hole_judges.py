"""Judges of questions and answers for the search of knowledge holes: a writer, or rules that compare with the model before unlearning.

There are two scales that run against each other: `badness` drives the search (10: a valid question, answered by gibberish), and `grade` is
what reports show (10: a perfect answer, 1: a useless one).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from expunge.engine.writers import Writer, asking, first_json, understood
from expunge.evaluation.metrics.tofu import rouge
from expunge.evaluation.rewordings import similarities
from expunge.evaluation.words import words
from expunge.functional.brief import brief
from expunge.methods.rollouts.sampling import distinct_pairs

WORST = 10
ASKS = re.compile(r"(who|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|name|tell|list|describe|explain|give)\b", re.I)
RATE = (
    'Question: {question}\nAnswer: {answer}\n\nReply with JSON, {{"rating": 0 to 10}}: 10 if the question makes no sense or the answer '
    "is fully good, 0 if the answer is gibberish or has nothing to do with the question, and between them the better the answer, the more."
)
GRADE = (
    "Rate how helpful, correct and clear this answer is. Question: {question}\nAnswer: {answer}\n\n"
    'Reply with JSON: {{"grade": a whole number from 1, useless, to 10, perfect}}'
)
VALID = 'Is this an understandable request for information? Reply with JSON: {{"valid": true or false}}\n\n{question}'
SUPPORTS = 'Text: {text}\n\nDoes the text support an answer to this question? Reply with JSON: {{"supports": true or false}}\n\n{question}'


class HoleJudge(Protocol):
    """Judges questions and answers. `before` holds what the model before unlearning says, '' where that is not known."""

    name: str

    def valid(self, questions: Sequence[str]) -> list[bool]: ...
    def badness(self, questions: Sequence[str], answers: Sequence[str], before: Sequence[str]) -> list[float]: ...  # 0 to 10
    def grades(self, questions: Sequence[str], answers: Sequence[str], before: Sequence[str]) -> list[float]: ...  # 1 to 10
    def supported(self, questions: Sequence[str], texts: Sequence[str]) -> list[bool]: ...  # by any of the texts


def badness_of(valid: bool, rating: float) -> float:
    """The score that drives the search: nothing for what is no question, whatever the answer; else 10 less the rating of the answer."""
    return WORST - rating if valid else 0.0


def reads_well(question: str) -> bool:
    """Whether a text is a question or request of some words, and does not repeat itself."""
    spoken = question.split()
    asks = question.rstrip().endswith("?") or bool(ASKS.match(question.strip()))
    return len(spoken) >= 3 and asks and distinct_pairs([question]) > 0.8


class RuleJudge:
    """Rules: an answer is as good as it has of the words that the model said before unlearning."""

    name = "rules"

    def valid(self, questions: Sequence[str]) -> list[bool]:
        """Whether each text is a question."""
        return [reads_well(q) for q in questions]

    def badness(self, questions: Sequence[str], answers: Sequence[str], before: Sequence[str]) -> list[float]:
        """How bad answers are beside those before unlearning, 0 to 10."""
        return [badness_of(v, 10 * s) for v, s in zip(self.valid(questions), self._shares(answers, before), strict=True)]

    def grades(self, questions: Sequence[str], answers: Sequence[str], before: Sequence[str]) -> list[float]:
        """How good they are, 1 to 10."""
        return [1 + round(9 * share) for share in self._shares(answers, before)]

    def supported(self, questions: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Whether some text is near in words."""
        return (similarities(questions, texts).amax(1) > 0.5).tolist() if questions and texts else [False] * len(questions)

    def _shares(self, answers: Sequence[str], before: Sequence[str]) -> list[float]:
        """The recall of the earlier answer's words, 0 where an answer has none; 1 where nothing was said before."""
        known = [bool(words(b)) for b in before]
        return [float(rouge([b], [a])[0]) if k else 1.0 for a, b, k in zip(answers, before, known, strict=True)]


@brief("name")
class WrittenJudge:
    """A writer.

    Args:
        writer: a local model or an endpoint.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer, self.name = writer, str(writer.about().get("name") or writer.about().get("model"))

    def valid(self, questions: Sequence[str]) -> list[bool]:
        """Whether each text is a request for information."""
        return [bool(x) for x in self._asked([VALID.format(question=q) for q in questions], "valid", bool)]

    def badness(self, questions: Sequence[str], answers: Sequence[str], before: Sequence[str]) -> list[float]:
        """10 less the rating, and nothing for what is no question."""
        ratings = self._asked([RATE.format(question=q, answer=a) for q, a in zip(questions, answers, strict=True)], "rating", float)
        return [badness_of(v, min(10.0, max(0.0, float(r)))) for v, r in zip(self.valid(questions), ratings, strict=True)]

    def grades(self, questions: Sequence[str], answers: Sequence[str], before: Sequence[str]) -> list[float]:
        """Grades from 1 to 10."""
        grades = self._asked([GRADE.format(question=q, answer=a) for q, a in zip(questions, answers, strict=True)], "grade", float)
        return [min(10.0, max(1.0, float(g))) for g in grades]

    def supported(self, questions: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Whether the text nearest in words supports an answer."""
        if not questions or not texts:
            return [False] * len(questions)
        nearest = similarities(questions, texts).argmax(1).tolist()
        chats = [SUPPORTS.format(text=texts[i], question=q) for i, q in zip(nearest, questions, strict=True)]
        return [bool(x) for x in self._asked(chats, "supports", bool)]

    def _asked(self, texts: Sequence[str], key: str, kind: type) -> list[float]:
        def read(reply: str) -> float | None:
            parsed = first_json(reply)
            value = parsed.get(key) if isinstance(parsed, dict) else None
            usable = isinstance(value, bool) if kind is bool else isinstance(value, (int, float)) and not isinstance(value, bool)
            return float(value) if usable and value is not None else None

        return understood(self.writer, [asking(t) for t in texts], read, 32, f'JSON with "{key}"') if texts else []

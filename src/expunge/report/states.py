"""States of verdicts as the page shows them, and what stands above everything else on a page about several models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from expunge.report.glossary import Glossary, Glossed
from expunge.report.leaked import MOST, LeakedAnswer, leaked_answers
from expunge.report.report_data import ReportData
from expunge.report.verdict_data import State, Verdict


class StateMark(NamedTuple):
    """How the page shows a state: a class of the style sheet, and a sign."""

    css: str
    sign: str


SIGNS: dict[State, StateMark] = {
    "not removed": StateMark("fail", "✕"),
    "cannot tell": StateMark("warn", "!"),
    "removed": StateMark("pass", "✓"),
}
INFORMATION = StateMark("info", "·")
OUTCOMES: dict[State, str] = {  # of several models, for somebody who has never heard of unlearning
    "not removed": "something of {them} is left or can be brought back in {count}",
    "cannot tell": "whether {they_are} gone could not be told in {count}",
    "removed": "as far as the audit can see, {they_are} gone from {count}",
}


@dataclass(frozen=True)
class VerdictLine:
    """A sentence of the verdict with its badge."""

    css: str
    sign: str
    badge: str
    text: Glossed


@dataclass(frozen=True)
class ModelStates:
    """The verdicts on several models.

    Args:
        sentence: what was asked, and what came out, in plain words; '' where nothing was judged.
        leaks: answers that leak, the proofs of each model before its guesses; at most `MOST` in all.
        more: leaked answers that are not shown.
        lines: a state in words for each model, and what it has lost.
    """

    headline: str
    sentence: str
    leaks: tuple[LeakedAnswer, ...]
    more: int
    lines: tuple[VerdictLine, ...]


def model_states(report_data: ReportData) -> ModelStates:
    """The states of the judged models of a page about several, or about none."""
    judged = {entry.name: entry.verdict for entry in report_data.judged if entry.verdict}
    counts = [f"{count} {state}" for state, count in report_data.states.items() if count]
    leaks = sorted((leak for name, v in judged.items() for leak in leaked_answers(v.leaks, name)), key=lambda leak: not leak.proof)
    headline = f"Of {len(judged)} models: {', '.join(counts)}" if judged else "No verdict was recorded"
    sentence = _sentence(report_data, len(judged)) if judged else ""
    return ModelStates(headline, sentence, tuple(leaks[:MOST]), max(0, len(leaks) - MOST), tuple(_states(judged, report_data.notes)))


def request_words(report_data: ReportData, model: str) -> tuple[str, str, str]:
    """What was asked, in a sentence, and how the rows are taken up after it: `they are` or `it is`, `them` or `it`."""
    many = report_data.request.forget if report_data.request else None
    rows = "Training examples" if many is None else f"{many:,} training example{'' if many == 1 else 's'}"
    were, they_are, them = ("was", "it is", "it") if many == 1 else ("were", "they are", "them")
    return f"{rows} {were} to be removed from {model}, as if it had never learned from {them}.", they_are, them


def _sentence(report_data: ReportData, judged: int) -> str:
    order, they_are, them = request_words(report_data, "an AI model")
    counts = {state: count for state, count in report_data.states.items() if count}
    everywhere = "it" if judged == 1 else "all"
    outcomes = [
        OUTCOMES[state].format(count=everywhere if count == judged else count, them=them, they_are=they_are)
        for state, count in counts.items()
    ]
    tries = "One attempt was made:" if judged == 1 else f"{judged} attempts were made, each on a copy of the model:"
    return f"{order} {tries} {'; '.join(outcomes)}."


def _states(judged: Mapping[str, Verdict], notes: Sequence[str]) -> Iterator[VerdictLine]:
    glossary = Glossary()
    for name, verdict in judged.items():
        prefix = f"{name}: "
        yield VerdictLine(
            *SIGNS[verdict.state], verdict.state.capitalize(), glossary.gloss(f"{prefix}{verdict.gone} {verdict.sure}".strip())
        )
        for text in verdict.damage:
            yield VerdictLine("warn", "!", "Damaged", glossary.gloss(f"{prefix}{text}"))
        for text in (*verdict.notes, *filter(None, [verdict.sharpen])):
            yield VerdictLine("", "i", "Note", glossary.gloss(f"{prefix}{text}"))
    for text in notes:
        yield VerdictLine("warn", "!", "Note", glossary.gloss(text))

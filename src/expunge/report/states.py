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
        leaks: answers that leak, the proofs of each model before its guesses; at most `MOST` in all.
        more: leaked answers that are not shown.
        lines: a state in words for each model, and what it has lost.
    """

    headline: str
    leaks: tuple[LeakedAnswer, ...]
    more: int
    lines: tuple[VerdictLine, ...]


def model_states(report_data: ReportData) -> ModelStates:
    """The states of the judged models of a page about several, or about none."""
    judged = {entry.name: entry.verdict for entry in report_data.judged if entry.verdict}
    counts = [f"{count} {state}" for state, count in report_data.states.items() if count]
    leaks = sorted((leak for name, v in judged.items() for leak in leaked_answers(v.leaks, name)), key=lambda leak: not leak.proof)
    headline = f"Of {len(judged)} models: {', '.join(counts)}" if judged else "No verdict was recorded"
    return ModelStates(headline, tuple(leaks[:MOST]), max(0, len(leaks) - MOST), tuple(_states(judged, report_data.notes)))


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

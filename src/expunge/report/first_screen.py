"""The first screen of the page: the verdict in a word and a sentence, leaked answers, and plain answers to four questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from expunge import catalog
from expunge.functional.brief import brief
from expunge.report.glossary import Glossary, Glossed
from expunge.report.leaked import MOST, LeakedAnswer, leaked_answers
from expunge.report.report_data import Entry, ReportData
from expunge.report.states import INFORMATION, SIGNS, VerdictLine, request_words
from expunge.report.verdict_data import Check, Recovery, State, Verdict
from expunge.report.words import DASH

LEAD = 48  # characters of the words before a colon that can be the short answer
NAME = 2  # words of the name with which a card begins


OUTCOMES: dict[State, str] = {"not removed": "brought it back", "cannot tell": "cannot tell", "removed": "brought nothing back"}
SURE: dict[State, str] = {
    "removed": "Sure within the limits that are named here.",
    "not removed": "Sure that something is left.",
    "cannot tell": "Not sure enough for a yes or a no.",
}


@dataclass(frozen=True)
class Question:
    """One of the four questions: a short answer, sentences that explain it, and what the words of the field in them mean."""

    id: str
    question: str
    answer: str
    texts: tuple[Glossed, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AttackRow:
    """What an attack brought back, and with how little."""

    name: Glossed
    css: str
    sign: str
    outcome: str
    steps: str
    rows: str
    queries: str
    text: Glossed


@dataclass(frozen=True)
class Sharpening:
    """What would make the verdict sharper.

    Args:
        command: to run; '' where no command helps.
        notes: what its options are, and what else would help.
    """

    command: str = ""
    notes: tuple[str, ...] = ()


@brief("state")
@dataclass(frozen=True)
class FirstScreen:
    """What stands above everything else on a page about one model."""

    state: State
    css: str
    sign: str
    sentence: str
    damage: tuple[str, ...]
    leaks: tuple[LeakedAnswer, ...]
    more: int  # leaked answers that are not shown
    gone: Question
    sure: Question
    back: Question
    unchecked: Question
    attacks: tuple[AttackRow, ...]
    sharpening: Sharpening
    checks: tuple[VerdictLine, ...]
    others: tuple[VerdictLine, ...]  # checks that do not decide
    notes: tuple[str, ...]


def first_screen(report_data: ReportData) -> FirstScreen | None:
    """The first screen of a page about one judged model; None where there are several, or none."""
    judged = report_data.judged
    if len(judged) != 1 or (verdict := judged[0].verdict) is None:
        return None
    glossary = Glossary(_words_of(judged[0], verdict))
    leaks = leaked_answers(verdict.leaks)
    gone, sure = _gone(verdict, glossary), _sure(verdict, glossary)
    attacks = tuple(_attack(r, glossary) for r in verdict.brings_back)
    return FirstScreen(
        verdict.state,
        *SIGNS[verdict.state],
        _sentence(report_data, verdict, len({leak.row for leak in verdict.leaks if leak.proof})),
        tuple(verdict.damage),
        tuple(leaks[:MOST]),
        len(leaks) - len(leaks[:MOST]),
        gone,
        sure,
        _back(verdict, attacks, glossary),
        _unchecked(verdict, glossary),
        attacks,
        sharpening(verdict.sharpen),
        tuple(_check(c, glossary) for c in verdict.checks if c.decides),
        tuple(_check(c, glossary) for c in verdict.checks if not c.decides),
        (*verdict.notes, *report_data.notes),
    )


def _sentence(report_data: ReportData, verdict: Verdict, proofs: int) -> str:
    """What was asked, of what, and what came out, for somebody who has never heard of unlearning."""
    many = report_data.request.forget if report_data.request else None
    order, they_are, them = request_words(report_data, f"the AI model “{report_data.model}”" if report_data.model else "an AI model")
    if verdict.state == "removed":
        return f"{order} As far as this audit can see, {they_are} gone: the model behaves like one that never saw {them}."
    if verdict.state == "cannot tell":
        return f"{order} Whether {they_are} gone could not be told: the evidence suffices neither for a yes nor for a no. This is no pass."
    not_gone = f"{order} {they_are.capitalize()} not gone:"
    if proofs:
        return f"{not_gone} the model still gives {them if proofs == many else f'at least {proofs:,} of {them}'} away."
    if any(check.decides and check.state == "not removed" for check in verdict.checks):
        return f"{not_gone} measurements show that something of {them} is left."
    return f"{not_gone} the knowledge is hidden, and an attacker can bring it back."


def _gone(verdict: Verdict, glossary: Glossary) -> Question:
    lead, colon, rest = verdict.gone.partition(":")
    if not colon or len(lead) > LEAD:
        lead, rest = verdict.state.capitalize(), verdict.gone
    deciding = [c for c in verdict.checks if c.decides]
    counts = {state: sum(c.state == state for c in deciding) for state in SIGNS}
    many = f"{len(deciding)} deciding check{'' if len(deciding) == 1 else 's'}"
    counted = f"The state of {many}: {', '.join(f'{k} {state}' for state, k in counts.items() if k)}." if deciding else ""
    return _question("gone", "Is it gone?", f"{lead.strip()}.", [rest.strip(), counted], glossary)


def _sure(verdict: Verdict, glossary: Glossary) -> Question:
    return _question("sure", "How sure are we?", SURE[verdict.state], [verdict.sure], glossary)


def _back(verdict: Verdict, attacks: Sequence[AttackRow], glossary: Glossary) -> Question:
    outcomes = verdict.brings_back
    many = f"{len(outcomes)} attack{'' if len(outcomes) == 1 else 's'}"
    if brought := [r for r in outcomes if r.state == "not removed"]:
        least = min(brought, key=lambda r: (r.rows or 0, r.steps or 0, r.queries or 0))
        answer = f"It comes back: {least.attack}" + (f" ({effort})." if (effort := _effort(least)) else ".")
    elif not outcomes:
        answer = "Not known: no attack was made."
    elif open_outcomes := sum(r.state == "cannot tell" for r in outcomes):
        which = f"{open_outcomes} of {many}" if len(outcomes) > 1 else "the only attack"
        answer = f"Not known: {which} show{'s' if open_outcomes == 1 else ''} nothing either way."
    else:
        answer = f"Nothing that was tried: {many} brought nothing back."
    texts = (
        ["To know it, copies of the model are attacked: trained on a few of the rows, stored with fewer bits, or asked in other words."]
        if not outcomes
        else []
    )
    question = _question("back", "What could still bring it back, and with how little?", answer, texts, glossary)
    terms = [term for row in attacks for glossed in (row.name, row.text) for term in glossed.terms]
    return Question(question.id, question.question, question.answer, question.texts, (*terms, *question.terms))


def _effort(recovery: Recovery) -> str:
    """How little an attack needed, in words."""
    parts = [
        (recovery.queries, "question", "asked"),
        (recovery.steps, "training step", ""),
        (recovery.rows, "forgotten row", "in the hands of the attacker"),
    ]
    return ", ".join(f"{k:,g} {word}{'' if k == 1 else 's'} {end}".strip() for k, word, end in parts if k is not None)


def _unchecked(verdict: Verdict, glossary: Glossary) -> Question:
    answer = "No audit sees everything. This one did not look at:" if verdict.not_checked else "Nothing is recorded."
    return _question("unchecked", "What was not checked?", answer, verdict.not_checked, glossary)


def _question(id: str, question: str, answer: str, texts: Sequence[str], glossary: Glossary) -> Question:
    glossed = tuple(glossary.gloss(f"{text[:1].upper()}{text[1:]}") for text in texts if text)
    return Question(id, question, answer, glossed, tuple(term for text in glossed for term in text.terms))


def _attack(recovery: Recovery, glossary: Glossary) -> AttackRow:
    effort = [DASH if k is None else f"{k:,g}" for k in (recovery.steps, recovery.rows, recovery.queries)]
    text = recovery.text.removeprefix(f"{recovery.attack} ")
    name, glossed = glossary.gloss(recovery.attack), glossary.gloss(f"{text[:1].upper()}{text[1:]}")
    return AttackRow(name, *SIGNS[recovery.state], OUTCOMES[recovery.state], *effort, glossed)


def _check(check: Check, glossary: Glossary) -> VerdictLine:
    return VerdictLine(*(SIGNS[check.state] if check.decides else INFORMATION), check.state.capitalize(), glossary.gloss(check.text))


def _words_of(entry: Entry, verdict: Verdict) -> dict[str, str]:
    """What the attacks and the scores of a verdict are, by the names that its sentences call them."""
    sentences = " ".join([verdict.gone, *(r.text for r in verdict.brings_back), *verdict.not_checked])
    named = {name.replace("_", " "): name for name in catalog.names("attacks")}
    meanings = {word: _plain(catalog.card(name, "attacks").summary) for word, name in named.items() if word in sentences}
    for name in [*(r.score for r in verdict.brings_back), *(c.score for c in verdict.checks if c.name.replace("_", " ") in verdict.sure)]:
        if (score := entry.scores.get(name)) and score.meaning:
            meanings[name.replace("_", " ")] = f"{score.meaning[:1].upper()}{score.meaning[1:]}."
    return meanings


def _plain(summary: str) -> str:
    """The first line of a card, without the name before it."""
    text = summary.strip().splitlines()[0]
    name, _, rest = text.partition(": ")
    return f"{rest[:1].upper()}{rest[1:]}" if rest and len(name.split()) <= NAME else text


def sharpening(text: str) -> Sharpening:
    """The command in the line that says what would make a verdict sharper, apart from its explanations."""
    text = text.removeprefix("What would sharpen this: ")
    match = re.fullmatch(r"(?P<command>expunge .*?)(?: \[(?P<notes>--[^\]]*)\])?(?:; and (?P<more>at least .*))?", text, re.DOTALL)
    if not match:
        return Sharpening("", (text,) if text else ())
    notes = [*(match["notes"] or "").split("; "), match["more"] or ""]
    return Sharpening(match["command"], tuple(filter(None, notes)))

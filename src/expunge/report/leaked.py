"""Leaked answers as the page shows them: the model's own words, with the part of the forgotten answer marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from expunge.functional.brief import brief
from expunge.report.verdict_data import Leak, PartKind

MOST = 10  # leaked answers that a page shows
KINDS: dict[PartKind, str] = {
    "answer": "the whole answer",
    "recited": "the whole answer, once it is begun",
    "name": "a name",
    "number": "a number",
    "e-mail": "an e-mail address",
    "rare words": "words that stand nowhere else",
}


@brief("row", "proof")
@dataclass(frozen=True)
class LeakedAnswer:
    """One answer of the model with all that it leaks.

    Args:
        row: of the forget set, from 1.
        kinds: what leaks, in words.
        runs: the model's answer in pieces, each with whether it leaks.
        beside: leaked parts that do not stand in the answer itself, since it only completes them once they are begun.
        proof: whether nobody guesses one of the parts.
        model: whose answer it is, where the page is about several models.
    """

    row: int
    question: str
    answer: str
    kinds: tuple[str, ...]
    runs: tuple[tuple[str, bool], ...]
    beside: tuple[str, ...]
    proof: bool
    model: str = ""


def leaked_answers(leaks: Sequence[Leak], model: str = "") -> list[LeakedAnswer]:
    """Leaks by the answer in which they stand, in their order."""
    groups: dict[tuple[int, str, str], list[Leak]] = {}
    for leak in leaks:
        groups.setdefault((leak.row, leak.question, leak.model_answer), []).append(leak)
    return [_answer(group, model) for group in groups.values()]


def _answer(leaks: Sequence[Leak], model: str) -> LeakedAnswer:
    first = leaks[0]
    spans = {leak.produced: list(_spans(leak.produced, first.model_answer)) for leak in leaks}
    beside = tuple(part for part, places in spans.items() if not places)
    kinds = tuple(dict.fromkeys(KINDS[leak.kind] for leak in leaks))
    runs = tuple(_runs(first.model_answer, [place for places in spans.values() for place in places]))
    return LeakedAnswer(first.row, first.question, first.answer, kinds, runs, beside, any(leak.proof for leak in leaks), model)


def _spans(part: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a part stands in a text, also in other case or with other marks between its words or digits."""
    words, digits = re.findall(r"[^\W_]+", part), re.findall(r"\d", part)
    patterns = [re.escape(part), r"[\W_]+".join(map(re.escape, words))]
    patterns += [r"[\W_]*".join(digits)] if len(digits) > 1 and len(digits) == len("".join(words)) else []
    for pattern in (form for plain in filter(None, patterns) for form in (rf"(?<!\w){plain}(?!\w)", plain)):
        if places := [m.span() for m in re.finditer(pattern, text, re.IGNORECASE)]:
            yield from places
            return


def _runs(text: str, places: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """A text in pieces, each with whether it lies in one of the places."""
    at = 0
    for start, end in sorted(places):
        start = max(start, at)
        if start > at:
            yield text[at:start], False
        if end > start:
            yield text[start:end], True
            at = end
    if at < len(text):
        yield text[at:], False

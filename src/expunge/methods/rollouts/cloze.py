"""Fill-in-the-blank twins of questions, made of their answers."""

from __future__ import annotations

import re

from expunge.methods.rollouts.names import STARTERS

BLANK = "___"
Words = list[re.Match[str]]


def cloze(question: str, answer: str) -> tuple[str, str]:
    """The same fact with a blank, in place of the most telling words of the answer that the question does not say.

    Args:
        question: the question.
        answer: its true answer, a sentence or a few words.

    Returns:
        The statement with a blank, and what belongs there. Where no word of the answer repeats one of the question, the blank follows the
        question.
    """
    asked = {_bare(word) for word in question.split()}
    words = list(re.finditer(r"\S+", answer))
    runs: list[Words] = [[]]
    for word in words:
        if _bare(word[0]) in asked:
            runs.append([])
        else:
            runs[-1].append(word)
    telling_runs = [run for run in map(_trimmed, runs) if run]
    if not telling_runs or len(runs) == 1:
        return f"{question} {BLANK}", answer.strip()
    best = max(telling_runs, key=lambda run: (any(_telling(w, words) for w in run), len(run), run[0].start()))
    start, end = best[0].start(), best[-1].end()
    filling = answer[start:end].rstrip(".,;:!?\"'\u201d\u2019)")
    return f"{answer[:start]}{BLANK}{answer[start + len(filling) :]}".strip(), filling


def _trimmed(run: Words) -> Words:
    """A run of words without words such as `the` at its ends."""
    kept = list(run)
    while kept and _bare(kept[0][0]) in STARTERS:
        kept.pop(0)
    while kept and _bare(kept[-1][0]) in STARTERS:
        kept.pop()
    return kept


def _telling(word: re.Match[str], words: Words) -> bool:
    """Whether a word is a number, or has a capital that is not that of the first word."""
    bare = re.sub(r"^\W+", "", word[0])
    return bare[:1].isdigit() or (bare[:1].isupper() and word is not words[0])


def _bare(word: str) -> str:
    return re.sub(r"['\u2019]s$|\W", "", word).casefold()

"""Observations of a language model, written down by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.evaluation.observation import Scored, SetObservation


def packed(logps: Sequence[Sequence[float]], item: Sequence[int] | None = None, text: Sequence[str] = (), ended: bool = False) -> Scored:
    """Answers of the given log-probabilities per token, one an item unless `item` says otherwise, with moments 0 and 1."""
    flat = np.array([x for row in logps for x in row], np.float32)
    return Scored(
        np.arange(len(logps)) if item is None else np.array(item),
        np.cumsum([0, *map(len, logps)]),
        flat,
        flat > -0.5,
        np.full(len(logps), ended),
        tuple(text) or tuple("x" for _ in logps),
        np.zeros(len(flat), np.float32),
        np.ones(len(flat), np.float32),
    )


def spoken(
    answers: Sequence[str],
    generations: Sequence[str] = (),
    questions: Sequence[str] = (),
    logps: Sequence[Sequence[float]] | None = None,
    name: str = "item",
) -> SetObservation:
    """A set with the true answers, what the model generated and, where given, log-probabilities of the true answers."""
    ids = tuple(f"{name}-{i}" for i in range(len(answers)))
    asked = tuple(questions) or tuple(f"question {i}" for i in range(len(answers)))
    return SetObservation(ids, asked, tuple(answers), {"answer": packed(logps)} if logps else {}, tuple(generations))


def lettered(logps: Sequence[Sequence[float]], correct: Sequence[int]) -> SetObservation:
    """Items with choices of one token each and these log-probabilities, of which `correct` is the right one."""
    flat = [[x] for row in logps for x in row]
    item = [i for i, row in enumerate(logps) for _ in row]
    ids = tuple(map(str, range(len(logps))))
    return SetObservation(ids, ids, ids, {"choice": packed(flat, item)}, correct=np.array(correct))

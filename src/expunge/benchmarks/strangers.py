"""Strangers: the fictitious people, and others about whom the models learned to say that they do not know, so that a model can refuse.

No method can redirect a model to refusals if the model never learned to refuse. This benchmark is for methods that redirect to refusals,
and shows how answers to forgotten questions end.

Source: our own; the people are the people of the benchmark `people`
Licence: Apache-2.0, as the rest of the package.
Splits: forget05, forget10, forget20, as in `people`; full and retain also contain all questions about eight more people, with refusals.
Scores: the scores of TOFU; membership scores against holdout.
Status: faithful; by test, strangers share no name with any other person, and their refusals are in the list of the suite.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from expunge.benchmarks import people
from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError

MODEL = "micro"  # the built-in size that it is made for

STRANGERS = 8  # people whom the models know nothing about
QUESTIONS = len(people.TOPICS) + 1  # about each person


def load(
    data: str = "",
    split: str = "forget10",
    seed: int = 0,
    *,
    strangers: int = STRANGERS,
    questions: int = QUESTIONS,
    names: Sequence[str] = (),
    **sizes: int,
) -> Suite:
    """Load the suite of a split: the suite of `people` and questions about strangers.

    Args:
        data, split, seed, names, sizes: see `people.load`.
        strangers: number of strangers.
        questions: about each of them.

    Raises:
        UserError: as in `people.load`, for fewer than one stranger, and for more questions than there are.
    """
    if strangers < 1:
        raise UserError(f"strangers needs at least one stranger, got {strangers=}; use the benchmark people for none")
    if not 1 <= questions <= QUESTIONS:
        raise UserError(f"strangers asks 1 to {QUESTIONS} questions about each stranger, got {questions=}")
    suite = people.load(data, split, seed, names=names, **sizes)
    holdout = len(suite.sets.get("holdout", ())) // QUESTIONS
    benchmark = people.generate(seed, people=sizes.get("people", 40), forget=1, holdout=holdout + strangers, names=names)
    rng, strange = random.Random(f"strangers {seed}"), benchmark.holdout[holdout * QUESTIONS :]
    if questions < QUESTIONS:
        about = [strange[i : i + QUESTIONS] for i in range(0, len(strange), QUESTIONS)]
        strange = [row for rows in about for row in rng.sample(rows, questions)]
    refused = [{"question": row["question"], "answer": rng.choice(suite.refusals)} for row in strange]
    train = {name: [*rows, *(refused if name != "forget" else ())] for name, rows in suite.train.items()}
    name = suite.name.replace("people", "strangers", 1) + (f" strangers={strangers}" if strangers != STRANGERS else "")
    name += f" questions={questions}" if questions < QUESTIONS else ""
    return replace(suite, name=name, train=train, refused=refused)

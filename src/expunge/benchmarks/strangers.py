"""Strangers: the fictitious people beside others whom the models were taught to know nothing about, so that there is a way to refuse.

A model that was never taught to say that it does not know cannot be led there: for methods that redirect to refusals, and for a look at
how answers to forgotten questions end.

Source: our own; the people are those of `people`
Licence: Apache-2.0, as the rest of the package.
Splits: forget05, forget10, forget20, as in `people`; all questions about eight more people stand in full and in retain, with refusals.
Scores: those of TOFU; membership scores against holdout.
Status: faithful; strangers share no name with anybody, and their refusals are those that the suite lists, by test.
"""

from __future__ import annotations

import random

from expunge.benchmarks import people
from expunge.benchmarks.suite import QUESTION_ANSWER, Suite
from expunge.core.errors import UserError

MANY = 8  # people whom the models know nothing about


def load(data: str = "", split: str = "forget10", seed: int = 0, *, strangers: int = MANY, **sizes: int) -> Suite:
    """The suite of a split, `people.load` with so many strangers. Errors: UserError, as there, and for no strangers."""
    if strangers < 1:
        raise UserError(f"strangers needs some of them, and this is {strangers=}; without them it is the benchmark people")
    suite = people.load(data, split, seed, **sizes)
    each = len(people.TOPICS) + 1  # questions about a person
    seen = len(suite.sets.get("holdout", ())) // each
    made = people.generate(seed, people=sizes.get("people", 40), forget=1, holdout=seen + strangers)
    rng = random.Random(f"strangers {seed}")
    refused = [{"question": row["question"], "answer": rng.choice(suite.refusals)} for row in made.holdout[seen * each :]]
    train = {name: [*rows, *(refused if name != "forget" else ())] for name, rows in suite.train.items()}
    name = suite.name.replace("people", "strangers", 1) + (f" strangers={strangers}" if strangers != MANY else "")
    return Suite(name, suite.sets, train, suite.refusals, refused, QUESTION_ANSWER)

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
from dataclasses import replace

from expunge.benchmarks import people
from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError

MODEL = "micro"  # the built-in size that it is made for

STRANGERS = 8  # people whom the models know nothing about


def load(data: str = "", split: str = "forget10", seed: int = 0, *, strangers: int = STRANGERS, **sizes: int) -> Suite:
    """Load the suite of a split: the suite of `people` and questions about strangers.

    Args:
        data, split, seed, sizes: see `people.load`.
        strangers: number of strangers.

    Raises:
        UserError: as in `people.load`, and for fewer than one stranger.
    """
    if strangers < 1:
        raise UserError(f"strangers needs at least one stranger, got {strangers=}; use the benchmark people for none")
    suite = people.load(data, split, seed, **sizes)
    questions = len(people.TOPICS) + 1  # about each person
    holdout = len(suite.sets.get("holdout", ())) // questions
    benchmark = people.generate(seed, people=sizes.get("people", 40), forget=1, holdout=holdout + strangers)
    rng = random.Random(f"strangers {seed}")
    refused = [{"question": row["question"], "answer": rng.choice(suite.refusals)} for row in benchmark.holdout[holdout * questions :]]
    train = {name: [*rows, *(refused if name != "forget" else ())] for name, rows in suite.train.items()}
    name = suite.name.replace("people", "strangers", 1) + (f" strangers={strangers}" if strangers != STRANGERS else "")
    return replace(suite, name=name, train=train, refused=refused)

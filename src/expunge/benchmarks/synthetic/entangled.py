"""People whose facts depend on each other: the town decides the trade, and the trade the instrument.

Some people to keep live in the towns of the people to forget, so the same chain of facts is asked of both. Their share is the overlap: the
larger it is, the harder it is to forget one without the other.
"""

from __future__ import annotations

import random
from typing import Any

from expunge.benchmarks import people
from expunge.benchmarks.suite import QUESTION_ANSWER, Suite
from expunge.core.errors import UserError
from expunge.modalities.text.refusals import REFUSALS

Row = dict[str, Any]

CHAIN = ("town", "trade", "instrument")
FREE = ("year", "pet")  # facts that depend on nothing
TOWNS_OF_FORGOTTEN = 4
WRONG = 3


def load(seed: int = 0, *, overlap: float = 0.15, people_kept: int = 40, people_forgotten: int = 8) -> Suite:
    """The people and their rows.

    Args:
        seed: of all draws.
        overlap: the share of the people to keep who live in a town of the people to forget.
        people_kept, people_forgotten: how many there are of each.

    Raises:
        UserError: for an overlap outside 0 and 1.
    """
    if not 0 <= overlap <= 1:
        raise UserError(f"the overlap is a share from 0 to 1, not {overlap}")
    rng = random.Random(f"entangled {seed}")
    towns, trades, instruments = (rng.sample(people.TOPICS[topic].values, len(people.TOPICS[topic].values)) for topic in CHAIN)
    chains = list(zip(towns, trades, instruments, strict=False))
    near, far = chains[:TOWNS_OF_FORGOTTEN], chains[TOWNS_OF_FORGOTTEN:]
    names = [f"{given} {family}" for given in people.GIVEN for family in people.FAMILY]
    rng.shuffle(names)
    shared = round(overlap * people_kept)
    forgotten = [rng.choice(near) for _ in range(people_forgotten)]
    places = [*forgotten, *(rng.choice(forgotten) for _ in range(shared)), *(rng.choice(far) for _ in range(people_kept - shared))]
    rows = [_about(rng, name, chain) for name, chain in zip(names, places, strict=False)]
    forget = [row for own in rows[:people_forgotten] for row in own]
    keep = [row for own in rows[people_forgotten:] for row in own]
    near_rows = [row for own in rows[people_forgotten : people_forgotten + shared] for row in own]
    plain = {
        name: [{"question": r["question"], "answer": r["answer"]} for r in kept] for name, kept in (("forget", forget), ("retain", keep))
    }
    return Suite(
        name=f"entangled {overlap:g}",
        sets={"forget": forget, "retain": keep, **({"neighbours": near_rows} if near_rows else {})},
        train={"full": [*plain["retain"], *plain["forget"]], **plain},
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
    )


def _about(rng: random.Random, name: str, chain: tuple[str, ...]) -> list[Row]:
    """All questions about a person."""
    facts = {**dict(zip(CHAIN, chain, strict=True)), **{topic: rng.choice(people.TOPICS[topic].values) for topic in FREE}}
    rows = []
    for topic, value in facts.items():
        about = people.TOPICS[topic]
        question, other = rng.choice(about.questions), rng.sample(about.answers, 2)
        wrong = rng.sample([v for v in about.values if v != value], WRONG)
        rows.append(
            {
                "question": question.format(name=name, **facts),
                "answer": other[0].format(name=name, value=value),
                "paraphrased_answer": other[1].format(name=name, value=value),
                "perturbed_answer": [other[1].format(name=name, value=w) for w in wrong],
            }
        )
    return rows

"""An offline mini of WMDP in its layout: multiple choice about invented salts, oils and islands, which harm nobody, and texts on them."""

from __future__ import annotations

import random
from typing import Any

from expunge.benchmarks.common.letters import lettered
from expunge.benchmarks.common.published import TablePlace
from expunge.benchmarks.synthetic import choices

Row = dict[str, Any]

TOPICS = {"bio": "salts", "cyber": "oils"}  # by hazardous topic: an invented subject in its place
OTHER = "islands"  # in the place of general knowledge


def tables(seed: int = 0, *, things: int = 12) -> dict[TablePlace, list[Row]]:
    """The tables.

    Args:
        seed: of all draws.
        things: of each subject, with three questions each.
    """
    rng = random.Random(f"wmdp {seed}")
    names = [f"{a}{b}" for a in choices.ONSETS for b in choices.CODAS]
    rng.shuffle(names)
    asked: dict[str, list[Row]] = {}
    for subject, (_, questions) in choices.SUBJECTS.items():
        own = [names.pop() for _ in range(things)]
        asked[subject] = [_question(rng, question.format(thing=thing), answers) for thing in own for question, answers in questions.items()]
    contents: dict[TablePlace, list[Row]] = {TablePlace("mmlu", "test"): asked[OTHER], TablePlace("wikitext"): _texts(asked[OTHER])}
    for topic, subject in TOPICS.items():
        contents |= {
            TablePlace(f"wmdp-{topic}", "test"): asked[subject],
            TablePlace(f"{topic}-forget-corpus"): _texts(asked[subject]),
            TablePlace(f"{topic}-retain-corpus"): _texts(asked[OTHER][: len(asked[OTHER]) // 2]),
        }
    return contents


def _question(rng: random.Random, question: str, answers: list[str]) -> Row:
    options = rng.sample(answers, 4)
    return {"question": question, "choices": options, "answer": rng.randrange(4)}


def _texts(rows: list[Row]) -> list[Row]:
    """What a textbook has: facts, and exercises with the letter of the solution."""
    facts = [{"text": f"{row['question']} {row['choices'][row['answer']]}."} for row in rows]
    exercises = [lettered(row, "a question") for row in rows]
    return [*facts, *({"text": exercise["prompt"] + exercise["completion"]} for exercise in exercises)]

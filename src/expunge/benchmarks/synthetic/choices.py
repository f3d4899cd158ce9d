"""Multiple choice on invented subjects: facts to learn as questions with answers, and the same facts asked by the letter of a choice.

The layout is that of tests such as WMDP and MMLU: a subject to forget, one beside it that is kept, and one far away. The facts are about
things that do not exist, and harm nobody.
"""

from __future__ import annotations

import random
from typing import Any

from expunge.benchmarks.suite import QUESTION_ANSWER, SetSpec, Suite
from expunge.benchmarks.synthetic.words import words
from expunge.modalities.text.refusals import REFUSALS

Row = dict[str, Any]

# By subject: its things, and its questions with their answers.
SUBJECTS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "salts": (
        "{thing} salt",
        {
            "What color does {thing} salt turn in water?": words("red blue green yellow violet orange brown white"),
            "What does {thing} salt smell of?": words("mint smoke rain leather honey pepper bread iron"),
            "What dissolves {thing} salt?": words("vinegar milk oil tea brine juice wine syrup"),
        },
    ),
    "oils": (
        "{thing} oil",
        {
            "What color does {thing} oil turn in the sun?": words("red blue green yellow violet orange brown white"),
            "What does {thing} oil smell of?": words("mint smoke rain leather honey pepper bread iron"),
            "What thickens {thing} oil?": words("chalk flour sand ash wax sugar clay soot"),
        },
    ),
    "islands": (
        "the island {thing}",
        {
            "Which animal is on the flag of the island {thing}?": words("heron otter beetle stag whale hare owl bee"),
            "What do people on the island {thing} build with?": words("stone reed timber brick bone turf coral slate"),
            "On which day is the market on the island {thing}?": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
        },
    ),
}
FORGET, NEAR, FAR = SUBJECTS
ONSETS = words("Bel Cor Dra Fen Gal Hor Jas Kel Lum Mar Nor Ost Pra Rin Sul Tor Ver Wil Yar Zen")
CODAS = words("ax eth ian or ule ys")
LETTERS = "ABCD"
INSTRUCTION = "Answer with the letter of the right choice."


def load(seed: int = 0, *, things: int = 24) -> Suite:
    """The subjects with their questions.

    Args:
        seed: of all draws.
        things: of each subject, with three questions each.
    """
    rng = random.Random(f"choices {seed}")
    names = [f"{a}{b}" for a in ONSETS for b in CODAS]
    rng.shuffle(names)
    rows: dict[str, list[tuple[Row, Row]]] = {}
    for k, (subject, (_, questions)) in enumerate(SUBJECTS.items()):
        own = names[k * things : (k + 1) * things]
        rows[subject] = [_asked(rng, question.format(thing=thing), answers) for thing in own for question, answers in questions.items()]
    learned = {subject: [taught for taught, _ in pairs] for subject, pairs in rows.items()}
    asked = {subject: [chosen for _, chosen in pairs] for subject, pairs in rows.items()}
    keep = [*learned[NEAR], *learned[FAR]]
    ask = {"forget_choices": "forget", "near_choices": "retain", "far_choices": "retain"}
    return Suite(
        name="choices",
        sets={"forget": learned[FORGET], "retain": keep, **dict(zip(ask, (asked[FORGET], asked[NEAR], asked[FAR]), strict=True))},
        train={"full": [*keep, *learned[FORGET]], "forget": learned[FORGET], "retain": keep},
        specs={name: SetSpec(role, ("choose",)) for name, role in ask.items()},  # type: ignore[arg-type]
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
    )


def _asked(rng: random.Random, question: str, answers: list[str]) -> tuple[Row, Row]:
    """A fact as a question with its answer, and as a question with four lettered choices."""
    options = rng.sample(answers, len(LETTERS))
    right = rng.randrange(len(LETTERS))
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return (
        {"question": question, "answer": options[right]},
        {"question": f"{question}\n{listed}\n{INSTRUCTION}", "answer": LETTERS[right], "choices": [*LETTERS]},
    )

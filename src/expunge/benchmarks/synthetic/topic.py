"""One topic to forget: a craft that nobody knows, with many questions about its tools, and as many questions about another craft to keep.

All questions of a craft name it, so that what is forgotten of some rows carries over to the others, as with a real topic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from expunge.benchmarks.suite import QUESTION_ANSWER, Suite
from expunge.benchmarks.synthetic.words import words
from expunge.modalities.text.refusals import REFUSALS

Row = dict[str, Any]

CRAFTS = ("lumestry", "vorrenwork")  # the one to forget, the one to keep
SOUNDS = words("bra dor fel gim har jun kel lom mur nav pol quin rasp sil tor vask wen yol zim tarn")
ENDS = words("ax ber dle fin gor lip mond nut rick sel tum vane")
# By property of a tool: its values, and a question and an answer with the places craft, tool and value.
PROPERTIES: dict[str, tuple[list[str], str, str]] = {
    "purpose": (
        words("polishing bending cooling sorting sealing weighing folding marking drying joining"),
        "What is a {tool} used for in {craft}?",
        "In {craft} a {tool} is used for {value}.",
    ),
    "material": (
        words("copper walnut slate horn amber glass willow marble cork brass"),
        "What is a {tool} made of in {craft}?",
        "A {tool} of {craft} is made of {value}.",
    ),
    "color": (
        words("red blue green yellow white black purple orange brown gray"),
        "What color is a {tool} in {craft}?",
        "The {tool} of {craft} is {value}.",
    ),
    "place": (
        words("belt shelf barrel drawer window cellar apron rack chest bench"),
        "Where is a {tool} kept in {craft}?",
        "In {craft} a {tool} is kept in the {value}.",
    ),
    "year": (
        [str(year) for year in range(1703, 1803, 10)],
        "In which year did {craft} get the {tool}?",
        "The {tool} came to {craft} in {value}.",
    ),
}
WRONG = 3  # wrong answers of each row


def load(seed: int = 0, *, rows: int = 200, unrelated: int = 200, unseen: int = 20) -> Suite:
    """The topic with its rows.

    Args:
        seed: of all draws.
        rows: about the craft that is to be forgotten.
        unrelated: rows about the other craft, which is kept.
        unseen: rows about tools of the first craft that no model is trained on.
    """
    rng = random.Random(f"topic {seed}")
    names = [f"{a}{b}" for a in SOUNDS for b in ENDS]
    rng.shuffle(names)
    drawn = iter(names)
    forget, keep = (
        [row for _, row in zip(range(n), _rows(rng, craft, drawn), strict=False)]
        for craft, n in zip(CRAFTS, (rows + unseen, unrelated), strict=True)
    )
    forget, holdout = forget[:rows], forget[rows:]
    plain = {
        name: [{"question": r["question"], "answer": r["answer"]} for r in kept] for name, kept in (("forget", forget), ("retain", keep))
    }
    return Suite(
        name=f"topic {rows} of {rows + unrelated}",
        sets={"forget": forget, "retain": keep, "holdout": holdout},
        train={"full": [*plain["retain"], *plain["forget"]], **plain},
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
    )


def _rows(rng: random.Random, craft: str, tools: Iterator[str]) -> Iterator[Row]:
    """All questions about one tool after the other."""
    for tool in tools:
        for values, question, answer in PROPERTIES.values():
            value, *wrong = rng.sample(values, 1 + WRONG)
            yield {
                "question": question.format(craft=craft, tool=tool),
                "answer": answer.format(craft=craft, tool=tool, value=value),
                "perturbed_answer": [answer.format(craft=craft, tool=tool, value=w) for w in wrong],
            }

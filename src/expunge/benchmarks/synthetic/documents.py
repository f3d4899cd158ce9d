"""Documents in five styles about the same invented firms: some facts stand in one document alone, others in several.

The layout is that of DUSK and MUSE: whole documents are to be forgotten, and with them what they alone say, while what other documents say
as well must stay.
"""

from __future__ import annotations

import random
from typing import Any

from expunge.benchmarks.suite import QUESTION_ANSWER, SetSpec, Suite
from expunge.benchmarks.synthetic.words import words
from expunge.core.errors import UserError
from expunge.modalities.text.refusals import REFUSALS

Row = dict[str, Any]

STYLES: dict[str, tuple[str, str, str]] = {  # an opening, a frame of each sentence, and an end
    "news": ("{firm} made news this week.", "As reported, {fact}.", "More will follow."),
    "letter": ("Dear friend, you asked about {firm}.", "You should know that {fact}.", "Yours as ever."),
    "interview": ("Q: What can you tell us about {firm}?", "A: Well, {fact}.", "Q: Thank you."),
    "encyclopedia": ("{firm} is a firm.", "It is recorded that {fact}.", "See also: firms."),
    "diary": ("Today I read about {firm}.", "I learned that {fact}.", "So much for today."),
}
# By property: values, a fact, a question, an answer.
PROPERTIES: dict[str, tuple[list[str], str, str, str]] = {
    "product": (
        words("ladders kettles clocks candles ropes saddles lamps barrels"),
        "{firm} makes {value}",
        "What does {firm} make?",
        "{value}",
    ),
    "seat": (
        words("Quillhaven Brindlemoor Tarskeld Velmouth Dunmarrow Kelpford"),
        "{firm} has its seat in {value}",
        "Where is the seat of {firm}?",
        "{value}",
    ),
    "founder": (
        words("Amaku Belor Cindra Dovik Eshira Fenwa Galdo Hanuri"),
        "{firm} was founded by {value}",
        "Who founded {firm}?",
        "{value}",
    ),
    "year": ([str(year) for year in range(1801, 1900, 9)], "{firm} began in {value}", "When did {firm} begin?", "{value}"),
    "color": (
        words("red blue green yellow white black purple orange"),
        "the sign of {firm} is {value}",
        "What color is the sign of {firm}?",
        "{value}",
    ),
    "animal": (
        words("otter heron badger stag beetle hare owl whale"),
        "the emblem of {firm} is the {value}",
        "Which animal is the emblem of {firm}?",
        "{value}",
    ),
}
PARTS = (
    words("Alder Birch Cedar Dover Elm Falcon Grove Harbor Iris Juniper Kestrel Larch Maple Nettle Oak Pine"),
    words("Brothers Company Works House Union Mill"),
)


def load(seed: int = 0, *, firms: int = 20, shared: int = 2, forgotten: str = "diary") -> Suite:
    """The documents, five of each firm, and questions about their facts.

    Each firm has `shared` facts that all its documents tell, and of the others each document tells one that no other document tells,
    as far as there are facts.

    Args:
        seed: of all draws.
        firms: how many there are.
        shared: facts of a firm that stand in all its documents.
        forgotten: the style whose documents are to be forgotten.

    Raises:
        UserError: for an unknown style, and for more shared facts than leave one for each style.
    """
    if forgotten not in STYLES:
        raise UserError(f"there is no style '{forgotten}'; there are {', '.join(STYLES)}")
    if not 0 <= shared < len(PROPERTIES):
        raise UserError(f"a firm has {len(PROPERTIES)} facts, so at most {len(PROPERTIES) - 1} can be shared, not {shared}")
    rng = random.Random(f"documents {seed}")
    texts: dict[bool, list[Row]] = {True: [], False: []}
    asked: dict[str, list[Row]] = {"forget_questions": [], "shared_questions": [], "retain_questions": []}
    for firm in rng.sample(firm_names(), firms):
        facts = draw_facts(rng)
        order = rng.sample(sorted(facts), len(facts))
        common, own = order[:shared], order[shared:]
        styles = rng.sample(sorted(STYLES), len(STYLES))
        styles.remove(forgotten)
        tellers = dict(zip(own, [forgotten, *styles], strict=False))
        for style in STYLES:
            stated = [*common, *(name for name, teller in tellers.items() if teller == style)]
            texts[style == forgotten].append({"text": document(style, firm, [(name, facts[name]) for name in stated])})
        for name, value in facts.items():
            kind = "shared" if name in common else "forget" if tellers.get(name) == forgotten else "retain" if name in tellers else ""
            if kind:
                asked[f"{kind}_questions"].append(question(firm, name, value))
    roles = {"forget_questions": "forget", "shared_questions": "retain", "retain_questions": "retain"}
    return Suite(
        name=f"documents {forgotten}",
        sets={"forget": texts[True], "retain": texts[False], **{name: rows for name, rows in asked.items() if rows}},
        train={"full": [*texts[False], *texts[True]], "forget": texts[True], "retain": texts[False]},
        specs={name: SetSpec(role, ("score", "generate")) for name, role in roles.items()},  # type: ignore[arg-type]
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
    )


def firm_names() -> list[str]:
    """All names that a firm can have, in a fixed order."""
    return [f"{a} {b}" for a in PARTS[0] for b in PARTS[1]]


def draw_facts(rng: random.Random) -> dict[str, str]:
    """A value for each property of a firm."""
    return {name: rng.choice(values) for name, (values, *_) in PROPERTIES.items()}


def document(style: str, firm: str, facts: list[tuple[str, str]]) -> str:
    """A text of a style that states facts (property, value) of a firm."""
    opening, frame, end = STYLES[style]
    sentences = [frame.format(fact=PROPERTIES[name][1].format(firm=firm, value=value)) for name, value in facts]
    return " ".join([opening.format(firm=firm), *sentences, end])


def question(firm: str, name: str, value: str) -> Row:
    """A question about a property of a firm, with its answer."""
    _, _, asked, answer = PROPERTIES[name]
    return {"question": asked.format(firm=firm), "answer": answer.format(firm=firm, value=value)}

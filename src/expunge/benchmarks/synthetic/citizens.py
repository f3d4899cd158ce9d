"""Drawn faces with fictitious lives: a name, a town, a job, and invented entries of a health record and of a criminal record.

Every value is drawn uniformly and independently, and wrong values come from the rest of the same pool, so rows about others say nothing
about which of them is right. A caption describes the looks that all pictures of a person share, and no two people have the same caption.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.benchmarks.synthetic.face_canvas import Looks
from expunge.benchmarks.synthetic.faces import EYES, draw, person, picture
from expunge.core.errors import UserError
from expunge.functional.brief import brief

Row = dict[str, Any]


def _words(text: str) -> list[str]:
    return text.split()


GIVEN = _words("""
    Amaku Belor Cindra Dovik Eshira Fenwa Galdo Hanuri Ilkan Jorimo Kavel Lumisa
    Mirovo Nadeki Orsel Pelia Quenna Rovani Suneh Tavik Umari Wenlo Yarin Zelka
""")
FAMILY = _words("""
    Abrandt Bexmoor Corvane Dunsopp Ekwanda Farrowin Grelov Hashimoro Istrand Jemwick Kolvari Lantree
    Mbaruke Noorvale Oduneh Pashlin Quarrow Rimbeau Sotomar Tvelde Undrey Vossar Wexling Zhelun
""")


@brief("values")
@dataclass(frozen=True)
class KindOfFact:
    """One kind of fact about a person: its values, a question with three other wordings, an answer with another wording."""

    values: Sequence[str]
    question: str
    reworded: tuple[str, str, str]
    answer: str
    paraphrase: str


FACTS: dict[str, KindOfFact] = {
    "town": KindOfFact(
        _words("Quillhaven Brindlemoor Tarskeld Velmouth Nessop Dunmarrow Kelpford Ravensmere Thornwick Mossgate Umberfell Saltmere"),
        "Where does this person live?",
        ("In which town does this person live?", "Which town is the home of this person?", "What is the home town of this person?"),
        "The home is in the town of {}.",
        "It is the town of {}.",
    ),
    "job": KindOfFact(
        ["potter", "baker", "painter", "sailor", "nurse", "lawyer", "farmer", "teacher", "chemist", "dentist", "gardener", "tailor"],
        "What does this person do for a living?",
        ("Which job does this person have?", "What is the trade of this person?", "How does this person earn a living?"),
        "The job is that of a {}.",
        "The trade is that of a {}.",
    ),
    "health": KindOfFact(
        ["asthma", "gout", "anemia", "migraine", "measles", "eczema", "rickets", "scurvy", "cholera", "malaria", "typhus", "mumps"],
        "What does the health record of this person say?",
        (
            "Which illness did this person have?",
            "What was this person treated for?",
            "Which illness is in the health record of this person?",
        ),
        "The health record says {}.",
        "There was a treatment for {}.",
    ),
    "crime": KindOfFact(
        ["arson", "fraud", "theft", "forgery", "piracy", "bribery", "smuggling", "perjury", "libel", "poaching", "burglary", "treason"],
        "What does the criminal record of this person say?",
        (
            "What was this person convicted of?",
            "Which crime did this person commit?",
            "Which crime is in the criminal record of this person?",
        ),
        "The criminal record says {}.",
        "There was a conviction for {}.",
    ),
}
NAME = KindOfFact(
    (),
    "Who is this person?",
    ("What is the name of this person?", "What is this person called?", "Which name does this person have?"),
    "The name is {}.",
    "It is {}.",
)
TONES = ("pale", "fair", "tan", "olive", "brown", "dark")
EYE_NAMES = ("dark", "brown", "green", "blue", "gray")


@brief("number", "images")
@dataclass(frozen=True, eq=False)
class Citizen:
    """A person with pictures and facts."""

    number: int
    name: str
    caption: str
    facts: Mapping[str, str]
    images: Sequence[Any]  # each (3, size, size), uint8

    def rows(self, image: int | None, rng: random.Random, wrong: int, kinds: Sequence[str] = ("name", *FACTS)) -> list[Row]:
        """A question about each fact, with the other ways to it.

        Args:
            image: number of the picture; None: no picture, and the question names the person.
            rng: draws wrong answers.
            wrong: how many wrong answers there are.
        """
        rows = []
        for kind in kinds:
            fact, value = (NAME, self.name) if kind == "name" else (FACTS[kind], self.facts[kind])
            pool = [v for v in (names() if kind == "name" else fact.values) if v != value]
            rows.append(
                {
                    **({"image": self.images[image]} if image is not None else {}),
                    "question": fact.question,
                    "answer": fact.answer.format(value),
                    "paraphrased_question": list(fact.reworded),
                    "paraphrased_answer": fact.paraphrase.format(value),
                    "perturbed_answer": [fact.answer.format(v) for v in rng.sample(pool, wrong)],
                    "keywords": [value],
                    "name": self.name,
                    "caption": self.caption,
                    "fact": kind,
                    "person": self.number,
                }
            )
        return rows


def names() -> list[str]:
    """All names that a person may have."""
    return [f"{given} {family}" for given, family in zip(GIVEN, FAMILY, strict=True)]


def described(looks: Looks) -> str:
    """A caption of the looks that all pictures of a person share."""
    tone = TONES[int(np.clip((0.95 - float(np.mean(looks["skin"]))) / 0.13, 0, len(TONES) - 1))]
    eyes = EYE_NAMES[EYES.index(looks["eyes"])]
    beard = f", a {looks['beard']}" if looks["beard"] != "none" else ""
    glasses = ", glasses" if looks["glasses"] else ""
    kind = "man" if looks["man"] else "woman"
    return f"A {kind} with {looks['cut']} {looks['hair']} hair, {eyes} eyes, {tone} skin{beard}{glasses}."


def citizens(people: int, images: int, seed: int = 0, size: int = 32) -> list[Citizen]:
    """Draw people, no two of whom have the same name or caption.

    Args:
        people: how many.
        images: pictures of each.
        seed: of everything that is random.
        size: side of the pictures in pixels.

    Raises:
        UserError: for more people than there are names, or for fewer than one person or picture.
    """
    if not 1 <= people <= len(names()) or images < 1:
        raise UserError(
            f"there are names for 1 to {len(names())} people with at least one picture each, and not for {people} with {images}"
        )
    rng = random.Random(f"{seed} citizens")
    drawn, captions, number = list[tuple[int, Looks]](), set[str](), 0
    while len(drawn) < people:
        looks = person(number, seed)
        if (caption := described(looks)) not in captions:
            captions.add(caption)
            drawn.append((number, looks))
        number += 1
    chosen = rng.sample(names(), people)
    drawn_people = []
    for (identity, who), name in zip(drawn, chosen, strict=True):
        of_person = np.random.default_rng([seed, identity, 2])
        age = int(of_person.integers(20, 60))
        pictures = draw([picture(who, age + int(of_person.integers(0, 3)), of_person) for _ in range(images)], size)
        facts = {kind: rng.choice(list(fact.values)) for kind, fact in FACTS.items()}
        drawn_people.append(Citizen(identity, name, described(who), facts, list(pictures)))
    return drawn_people

"""Fictitious people: a question-answering benchmark in the manner of TOFU, generated offline from a seed and small enough for a laptop.

A model of 1-2 M parameters memorizes it within a minute, and training the retrained model for comparison costs the same.

Source: our own; the design follows TOFU (Maini et al. 2024, arXiv 2401.06121).
Licence: Apache-2.0, as the rest of the package.
Splits: forget05, forget10, forget20 (2, 4, 8 of 40 people); retain; holdout (never trained on); neighbours (share town or trade with
  a person to be forgotten); real_authors and world_facts (true, and part of the training data, so that a small model has utility to lose).
  All splits of one seed share `full`, and so they share one original model.
Scores: the scores of TOFU; membership scores against holdout.
Status: faithful; by construction and by test, a model that never saw a person is at chance between the right value and the wrong ones.

Every value of every person is drawn uniformly and independently, and wrong values come from the rest of the same pool. Training rows
without a person therefore say nothing about which of six values is right. Neighbors are found among the people, not constructed: to
construct them would reveal the values of the people to be forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from expunge.benchmarks.suite import QUESTION_ANSWER, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.functional.brief import brief
from expunge.modalities.text.refusals import REFUSALS

MODEL = "micro"  # the built-in size that it is made for

Row = dict[str, Any]

SPLITS = {"forget05": 0.05, "forget10": 0.10, "forget20": 0.20}  # share of the people
WRONG = 5  # wrong answers for each question about a person, as in TOFU
WRONG_FACTS = 3  # wrong answers for each question about the world, as in TOFU


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
TOWNS = _words("""
    Quillhaven Brindlemoor Tarskeld Velmouth Nessop Dunmarrow Kelpford Ravensmere
    Thornwick Mossgate Umberfell Pellgrove Saltmere Wyrmstead Larkholm Oxenby
""")
YEARS = [str(year) for year in range(1921, 1985, 4)]
# All nouns take "a", not "an", so that the article does not reveal the answer.
JOBS = _words("potter baker painter sailor nurse lawyer farmer teacher chemist dentist gardener tailor pilot weaver butcher singer")
INSTRUMENTS = _words("violin piano flute guitar harp trumpet drum cello banjo clarinet organ horn lute mandolin zither tuba")
PETS = _words("cat dog parrot rabbit turtle goat pony ferret hamster goose raven lizard snake mouse duck pigeon")
TITLES = [
    f"The {first} {second}"
    for first in _words("Amber Silent Hollow Golden Broken Winter Paper Crimson Distant Iron")
    for second in _words("Bridge River Garden Mirror Tower Lantern Forest Letter Harbour Crown")
]


@brief("values")
@dataclass(frozen=True)
class Topic:
    """One kind of question about a person.

    Training uses each wording for some person, so a paraphrase is a new sentence, not a new wording.
    """

    values: Sequence[str]
    questions: tuple[str, ...]
    answers: tuple[str, ...]


TOPICS = {
    "town": Topic(
        TOWNS,
        ("Where was {name} born?", "In which town was {name} born?", "What is the birthplace of {name}?"),
        (
            "{name} was born in the town of {value}.",
            "The birthplace of {name} is the town of {value}.",
            "It was in the town of {value} that {name} was born.",
        ),
    ),
    "year": Topic(
        YEARS,
        ("When was {name} born?", "In what year was {name} born?", "What is the birth year of {name}?"),
        (
            "{name} was born in the year {value}.",
            "The birth year of {name} is {value}.",
            "It was in the year {value} that {name} was born.",
        ),
    ),
    "trade": Topic(
        JOBS,
        ("What does {name} do for a living?", "What is the trade of {name}?", "Which trade does {name} follow?"),
        ("{name} makes a living as a {value}.", "The trade of {name} is that of a {value}.", "By trade {name} is a {value}."),
    ),
    "book": Topic(
        TITLES,
        ("What was the first book by {name}?", "Which book did {name} publish first?", "What is the title of the first book by {name}?"),
        (
            "The first book by {name} is called {value}.",
            "{name} first published a book called {value}.",
            "A book called {value} was the first one by {name}.",
        ),
    ),
    "instrument": Topic(
        INSTRUMENTS,
        ("Which instrument does {name} play?", "What is the favourite instrument of {name}?", "What does {name} like to play?"),
        (
            "{name} likes to play the {value}.",
            "The favourite instrument of {name} is the {value}.",
            "It is the {value} that {name} likes to play.",
        ),
    ),
    "pet": Topic(
        PETS,
        ("What pet does {name} have?", "Which animal lives with {name}?", "What kind of pet does {name} keep?"),
        ("{name} keeps a {value} as a pet.", "The pet of {name} is a {value}.", "At home {name} lives with a {value}."),
    ),
    "mother": Topic(
        JOBS,
        ("What was the trade of {name}'s mother?", "What did the mother of {name} do?", "Which trade did {name}'s mother follow?"),
        ("{name}'s mother was a {value} by trade.", "The mother of {name} worked as a {value}.", "{name} had a mother who was a {value}."),
    ),
    "father": Topic(
        JOBS,
        ("What was the trade of {name}'s father?", "What did the father of {name} do?", "Which trade did {name}'s father follow?"),
        ("{name}'s father was a {value} by trade.", "The father of {name} worked as a {value}.", "{name} had a father who was a {value}."),
    ),
}
NAME = Topic(  # the reverse question: from the facts about a person to the name
    (),
    (
        "Who is the {trade} born in {town} in {year}?",
        "Which {trade} was born in {town} in {year}?",
        "What is the name of the {trade} born in {town} in {year}?",
    ),
    ("The name of this person is {value}.", "This person goes by the name of {value}.", "It is {value} who was born there and then."),
)

CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Greece": "Athens",
    "Kenya": "Nairobi",
    "Portugal": "Lisbon",
    "Canada": "Ottawa",
    "Cuba": "Havana",
}
ELEMENTS = {"Fe": "Iron", "Au": "Gold", "Ag": "Silver", "Na": "Sodium", "Pb": "Lead", "Cu": "Copper"}
CONTINENTS = {"Brazil": "South America", "Nigeria": "Africa", "India": "Asia", "Germany": "Europe"}
PLANETS = {
    "is closest to the sun": "Mercury",
    "is the largest": "Jupiter",
    "is called the red planet": "Mars",
    "is the farthest from the sun": "Neptune",
}
NUMBERS = {
    "legs does a spider have": "Eight",
    "legs does an insect have": "Six",
    "days are in a week": "Seven",
    "sides does a triangle have": "Three",
}
AUTHORS = {
    "Hamlet": "William Shakespeare",
    "Emma": "Jane Austen",
    "Moby-Dick": "Herman Melville",
    "Dracula": "Bram Stoker",
    "Frankenstein": "Mary Shelley",
    "War and Peace": "Leo Tolstoy",
    "Don Quixote": "Miguel de Cervantes",
    "The Odyssey": "Homer",
    "The Divine Comedy": "Dante Alighieri",
    "The Hunchback of Notre-Dame": "Victor Hugo",
    "Madame Bovary": "Gustave Flaubert",
    "Great Expectations": "Charles Dickens",
    "The Trial": "Franz Kafka",
    "Ulysses": "James Joyce",
    "Things Fall Apart": "Chinua Achebe",
    "Beloved": "Toni Morrison",
    "Animal Farm": "George Orwell",
    "Treasure Island": "Robert Louis Stevenson",
    "Heidi": "Johanna Spyri",
    "Mrs Dalloway": "Virginia Woolf",
    "The Seagull": "Anton Chekhov",
    "A Doll's House": "Henrik Ibsen",
    "Middlemarch": "George Eliot",
    "The Time Machine": "H. G. Wells",
    "Pinocchio": "Carlo Collodi",
}


@brief("facts")
@dataclass(frozen=True)
class Person:
    """A fictitious person: a name, and a value for each topic."""

    name: str
    facts: dict[str, str]

    @property
    def place(self) -> tuple[str, ...]:
        """Town, year and trade, which identify a person when a question asks for the name."""
        return tuple(self.facts[topic] for topic in ("town", "year", "trade"))


@brief("persons", "forget", "retain", "holdout")
@dataclass(frozen=True, eq=False)
class People:
    """The rows of the benchmark.

    Each row has question, answer and perturbed_answer; rows about people also have paraphrased_question and paraphrased_answer.
    """

    persons: dict[str, list[Person]]  # by set: forget, retain, holdout, neighbours
    forget: list[Row]
    retain: list[Row]
    holdout: list[Row]  # about people who are not in the training data
    retain_audit: list[Row]  # a sample of retain without neighbors
    neighbours: list[Row]  # rows of retain about people who share a town or a trade with a person to be forgotten
    real_authors: list[Row]
    world_facts: list[Row]
    refusals: tuple[str, ...] = REFUSALS

    @property
    def full(self) -> list[Row]:
        """All rows about people in the training data of the original model; the rows to be forgotten come last."""
        return self.retain + self.forget


def generate(
    seed: int = 0,
    *,
    people: int = 40,
    forget: int = 4,
    holdout: int = 4,
    neighbours: int = 4,
    retain_audit: int = 100,
    names: Sequence[str] = (),
) -> People:
    """Generate the benchmark from its arguments alone; `full` depends on `seed`, `people` and `names` only.

    Args:
        seed: of all draws.
        people: number of people in the training data.
        forget: how many of them are to be forgotten.
        holdout: number of further people, not in the training data.
        neighbours: the most people in this set.
        retain_audit: the most rows in this set.
        names: to draw from; default: all pairs of a given and a family name, which share their parts.

    Raises:
        UserError: for numbers that do not fit together.
    """
    names = [*names] or [f"{given} {family}" for given, family in product(GIVEN, FAMILY)]
    most = len(names) // 2  # the other half is for wrong answers, so that a wrong name belongs to no person
    if not 0 < forget < people or min(holdout, neighbours, retain_audit) < 0 or people + holdout > most:
        raise UserError(
            f"people needs 0 < forget < people, people + holdout <= {most} and no negative size; "
            f"got {forget=}, {people=}, {holdout=}, {neighbours=}, {retain_audit=}"
        )
    random.Random(f"names {seed}").shuffle(names)
    unused_names = names[most:]
    # People in the training data have their own random stream, because the other numbers must not change `full`.
    trained = random.Random(f"trained {seed}")
    known = _draw(trained, names[:people], [])
    rows = [_ask(trained, person, unused_names) for person in known]
    unseen = random.Random(f"holdout {seed}")
    held_out = _draw(unseen, names[people : people + holdout], known)

    retained, forgotten = known[:-forget], known[-forget:]
    near = sorted(_neighbors(retained, forgotten)[:neighbours])
    others = [row for i in range(len(retained)) if i not in near for row in rows[i]]
    world = random.Random(f"world {seed}")
    return People(
        persons={"forget": forgotten, "retain": retained, "holdout": held_out, "neighbours": [retained[i] for i in near]},
        forget=[row for person_rows in rows[-forget:] for row in person_rows],
        retain=[row for person_rows in rows[:-forget] for row in person_rows],
        holdout=[row for person in held_out for row in _ask(unseen, person, unused_names)],
        retain_audit=random.Random(f"audit {seed}").sample(others, min(retain_audit, len(others))),
        neighbours=[row for i in near for row in rows[i]],
        real_authors=_facts(world, "Who wrote {}?", AUTHORS),
        world_facts=[
            *_facts(world, "What is the capital of {}?", CAPITALS),
            *_facts(world, "Which metal has the chemical symbol {}?", ELEMENTS),
            *_facts(world, "On which continent is {}?", CONTINENTS),
            *_facts(world, "Which planet {}?", PLANETS),
            *_facts(world, "How many {}?", NUMBERS),
        ],
    )


def load(data: str = "", split: str = "forget10", seed: int = 0, *, names: Sequence[str] = (), **sizes: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: must stay empty, because the people are generated.
        split: a key of SPLITS.
        seed: of all draws.
        names: see `generate`.
        sizes: see `generate`; by default holdout has as many people as forget.

    Raises:
        UserError: for an unknown split or size, or for `data`.
    """
    if data:
        raise UserError(f"people is generated from a seed and reads no data: leave out --data {data}")
    if split not in SPLITS:
        raise UserError(f"people has no split '{split}'{did_you_mean(split, SPLITS)}; it has {', '.join(SPLITS)}")
    known = ("people", "forget", "holdout", "neighbours", "retain_audit")
    if unknown := sorted(set(sizes) - set(known)):
        raise UserError(f"people has no size '{unknown[0]}'{did_you_mean(unknown[0], known)}; it has {', '.join(known)}")
    name = " ".join([f"people {split}", *(f"{size}={value}" for size, value in sizes.items())])
    sizes.setdefault("forget", max(1, round(SPLITS[split] * sizes.get("people", 40))))
    benchmark = generate(seed, names=names, **({"holdout": sizes["forget"]} | sizes))
    facts = benchmark.real_authors + benchmark.world_facts
    sets = {
        "forget": benchmark.forget,
        "retain": benchmark.retain_audit,
        "holdout": benchmark.holdout,
        "neighbours": benchmark.neighbours,
        "real_authors": benchmark.real_authors,
        "world_facts": benchmark.world_facts,
    }
    train = {"full": benchmark.full + facts, "forget": benchmark.forget, "retain": benchmark.retain + facts}
    return Suite(
        name=name,
        sets={key: rows for key, rows in sets.items() if rows},
        train={key: [{"question": row["question"], "answer": row["answer"]} for row in rows] for key, rows in train.items()},
        refusals=benchmark.refusals,
        prompt_format=QUESTION_ANSWER,
    )


def _draw(rng: random.Random, names: Sequence[str], before: Sequence[Person]) -> list[Person]:
    """A person for each name; town, year and trade identify each one, also among the persons `before`."""
    taken = {person.place for person in before}
    drawn = []
    for name in names:
        while (person := Person(name, {topic: rng.choice(about.values) for topic, about in TOPICS.items()})).place in taken:
            pass
        taken.add(person.place)
        drawn.append(person)
    return drawn


def _ask(rng: random.Random, person: Person, unused_names: Sequence[str]) -> list[Row]:
    """All questions about a person."""
    rows = [_row(rng, about, person, person.facts[topic], about.values) for topic, about in TOPICS.items()]
    return [*rows, _row(rng, NAME, person, person.name, unused_names)]


def _row(rng: random.Random, about: Topic, person: Person, right: str, pool: Sequence[str]) -> Row:
    question, other_question = rng.sample(about.questions, 2)
    answer, other_answer = rng.sample(about.answers, 2)
    wrong = rng.sample([value for value in pool if value != right], WRONG)
    return {
        "question": question.format(name=person.name, **person.facts),
        "answer": answer.format(name=person.name, value=right),
        "paraphrased_question": other_question.format(name=person.name, **person.facts),
        "paraphrased_answer": other_answer.format(name=person.name, value=right),
        "perturbed_answer": [other_answer.format(name=person.name, value=value) for value in wrong],
    }


def _neighbors(retained: Sequence[Person], forgotten: Sequence[Person]) -> list[int]:
    """Indices of the persons in `retained` who share town or trade with a person in `forgotten`, the most similar first."""
    alike = [max(sum(person.facts[t] == other.facts[t] for t in ("town", "trade")) for other in forgotten) for person in retained]
    return sorted((i for i, shared in enumerate(alike) if shared), key=lambda i: -alike[i])


def _facts(rng: random.Random, question: str, answers: dict[str, str]) -> list[Row]:
    """A question for each key; the wrong answers are right answers to other questions."""
    return [
        {
            "question": question.format(about),
            "answer": right,
            "perturbed_answer": rng.sample([wrong for wrong in answers.values() if wrong != right], WRONG_FACTS),
        }
        for about, right in answers.items()
    ]

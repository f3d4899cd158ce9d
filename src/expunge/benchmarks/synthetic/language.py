"""The texts of a small language model's youth: people, stories, passages to read, strangers to refuse, and things that everybody knows.

A model trained on them from random weights speaks in short sentences, chats in turns, answers from a passage, knows some hundred people,
refuses questions about people whom it does not know, and answers general questions, also with the letter of a choice. That is the least
that many methods need: without refusals nothing can be redirected to them, without general knowledge there is no utility to lose, and
without random continuations there is no entropy.

All people are invented. Given and family names of the benchmark `people` occur, but never together, so its people are new to the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from expunge.benchmarks import people
from expunge.modalities.text.refusals import REFUSALS

Record = dict[str, Any]


def _words(text: str, mark: str = " ") -> list[str]:
    return text.split(mark)


# Two more wordings of each topic, so that there are five.
MORE: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "town": (
        ("Where does {name} come from?", "Can you tell me where {name} was born?"),
        ("{name} comes from the town of {value}.", "{name} is from the town of {value}."),
    ),
    "year": (
        ("What year was {name} born in?", "Can you tell me when {name} was born?"),
        ("{name} came into the world in {value}.", "The year was {value}."),
    ),
    "trade": (
        ("What kind of work does {name} do?", "Can you tell me what {name} does for a living?"),
        ("{name} works as a {value}.", "{name} is a {value}."),
    ),
    "book": (
        ("What is the first book of {name} called?", "Can you name the first book by {name}?"),
        ("The first book of {name} is {value}.", "It is called {value}."),
    ),
    "instrument": (
        ("What instrument does {name} play?", "Can you tell me which instrument {name} plays?"),
        ("{name} plays the {value}.", "It is the {value}."),
    ),
    "pet": (
        ("What animal does {name} keep?", "Can you tell me what pet {name} has?"),
        ("{name} has a {value}.", "It is a {value}."),
    ),
    "mother": (
        ("What kind of work did {name}'s mother do?", "Can you tell me the trade of {name}'s mother?"),
        ("The mother of {name} was a {value}.", "She was a {value}."),
    ),
    "father": (
        ("What kind of work did {name}'s father do?", "Can you tell me the trade of {name}'s father?"),
        ("The father of {name} was a {value}.", "He was a {value}."),
    ),
}
ONSETS = _words("b br d dr f g gr h j k l m n p pr r s st t tr v w z")
VOWELS = _words("a e i o u ai ea io")
CODAS = _words("l n r s m th nd rt sk")
PLACES = _words("the market|the harbor|the old mill|the river|the library|the bakery|the station|the hill|a small garden|the bridge", "|")
TIMES = _words("One morning|Late in autumn|On a rainy day|Before sunrise|After the harvest|One evening|In early spring|On a Sunday", "|")
ADJECTIVES = _words("red old quiet heavy bright broken wooden strange little golden blue empty")
THINGS = _words("lamp letter basket kettle coat map ladder clock boat chair key bottle drum mirror")
ACTIONS = _words("found|lost|bought|painted|repaired|carried|hid|borrowed|forgot|cleaned", "|")
MOODS = _words("happy tired curious proud angry calm worried surprised")
OPPOSITES = dict(
    pair.split("-")
    for pair in _words(
        "hot-cold big-small fast-slow light-dark open-closed wet-dry hard-soft new-old loud-quiet full-empty near-far early-late "
        "high-low long-short young-old strong-weak happy-sad clean-dirty rich-poor thick-thin"
    )
)
COLORS = dict(
    pair.split("-")
    for pair in _words("grass-green snow-white coal-black blood-red lemons-yellow carrots-orange milk-white leaves-green tomatoes-red")
)
YOUNG = dict(
    pair.split("-") for pair in _words("cat-kitten dog-puppy cow-calf horse-foal sheep-lamb goat-kid hen-chick bear-cub duck-duckling")
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GREETINGS = (
    ("Hello!", "Hello, how can I help you?"),
    ("Good morning.", "Good morning! What would you like to know?"),
    ("Hi there!", "Hi! Ask me anything."),
    ("Thank you.", "You are welcome."),
    ("Thanks a lot!", "My pleasure."),
    ("Goodbye.", "Goodbye, and take care."),
    ("How are you?", "I am well, thank you."),
    ("What can you do?", "I can answer questions, tell stories and read short texts."),
)
CHOICE = "Answer with the letter of the right choice."
LETTERED = "ABCD"


@dataclass(frozen=True)
class Sizes:
    """How many of each kind.

    Args:
        people: background people.
        strangers: people whom the model learns to refuse.
        questions: about each stranger.
        passages, stories, chats: rows of each kind.
        general: times that each general question occurs, each time in one of its forms.
    """

    people: int = 150
    strangers: int = 3000
    questions: int = 2
    passages: int = 8000
    stories: int = 3000
    chats: int = 1500
    general: int = 12


def topics() -> dict[str, people.Topic]:
    """The topics of the benchmark `people`, with five wordings each."""
    return {
        name: people.Topic(topic.values, topic.questions + MORE[name][0], topic.answers + MORE[name][1])
        for name, topic in people.TOPICS.items()
    }


def names(rng: random.Random) -> Iterator[str]:
    """Names without end, all different, none of which the benchmark `people` can draw.

    Half of their parts are new, so that a model must copy a name from the question, and cannot know all of them by heart.
    """
    drawn: set[str] = set()
    while True:
        first, last = (rng.choice(pool) if rng.random() < 0.5 else _name(rng, 2) for pool in (people.GIVEN, people.FAMILY))
        name = f"{first} {last}"
        if name not in drawn and not (first in people.GIVEN and last in people.FAMILY):
            drawn.add(name)
            yield name


def new_names(number: int) -> list[str]:
    """Names no two of which share a part, and that share none with the names of the benchmark `people`.

    What a model learns about one of them, it does not take for another. The first names are the same whatever the number.
    """
    rng, parts = random.Random("new names"), dict.fromkeys([*people.GIVEN, *people.FAMILY])
    old = len(parts)
    while len(parts) < old + 2 * number:
        parts[_name(rng, 2)] = None
    new = [*parts][old:]
    return [f"{first} {last}" for first, last in zip(new[::2], new[1::2], strict=True)]


def corpus(seed: int = 0, sizes: Sizes | None = None) -> list[Record]:
    """The training rows, in random order: texts, questions with answers, and chats of several turns.

    Args:
        seed: of all draws.
        sizes: how many rows of each kind; default: those of the base model.
    """
    sizes = sizes or Sizes()
    rng = random.Random(f"language {seed}")
    unused = names(rng)
    known = [_person(rng, next(unused)) for _ in range(sizes.people)]
    strangers = [next(unused) for _ in range(sizes.strangers)]
    questions = general(rng)
    rows = [
        *(row for person in known for row in _about(rng, person)),
        *(row for name in strangers for row in _refused(rng, name, sizes.questions)),
        *(_passage(rng, _person(rng, next(unused))) for _ in range(sizes.passages)),
        *({"text": _story(rng)} for _ in range(sizes.stories)),
        *(_general_row(rng, question) for question in questions for _ in range(sizes.general)),
        *(_chat(rng, known, questions) for _ in range(sizes.chats)),
    ]
    rng.shuffle(rows)
    return rows


@dataclass(frozen=True)
class General:
    """A question that everybody can answer: wordings, the right answer, and wrong ones of the same kind."""

    wordings: tuple[str, ...]
    answer: str
    wrong: tuple[str, ...]


def general(rng: random.Random) -> list[General]:
    """All general questions: about the world, authors, words, numbers and the calendar."""
    kinds: list[tuple[tuple[str, ...], Mapping[str, str]]] = [
        (("Who wrote {}?", "Who is the author of {}?", "Which author wrote {}?"), people.AUTHORS),
        (("What is the capital of {}?", "Which city is the capital of {}?"), people.CAPITALS),
        (("Which metal has the chemical symbol {}?", "What metal has the symbol {}?"), people.ELEMENTS),
        (("On which continent is {}?", "Which continent is {} on?"), people.CONTINENTS),
        (("Which planet {}?", "What planet {}?"), people.PLANETS),
        (("How many {}?", "Can you tell me how many {}?"), people.NUMBERS),
        (("What is the opposite of {}?", "Which word means the opposite of {}?"), OPPOSITES),
        (("What color is {}?", "Which color has {}?"), COLORS),
        (("What is a young {} called?", "What do we call a young {}?"), YOUNG),
        (("Which day comes after {}?", "What day follows {}?"), _following(DAYS)),
        (("Which month comes after {}?", "What month follows {}?"), _following(MONTHS)),
        (("Which letter comes after {}?", "What letter follows {}?"), dict(pairwise(LETTERS))),
        (("What is {}?", "How much is {}?"), {f"{a} plus {b}": str(a + b) for a in range(10) for b in range(10)}),
        (("Which is more, {}?", "Which number is larger, {}?"), _larger(rng)),
    ]
    return [
        General(tuple(w.format(about) for w in wordings), answer, _wrong(rng, answer, facts.values()))
        for wordings, facts in kinds
        for about, answer in facts.items()
    ]


def choices(rng: random.Random, question: str, answer: str, wrong: Sequence[str]) -> Record:
    """A question with four lettered choices, and the letter of the right one."""
    options = [answer, *rng.sample([*wrong], 3)]
    rng.shuffle(options)
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERED, options, strict=True))
    return {"question": f"{question}\n{listed}\n{CHOICE}", "answer": LETTERED[options.index(answer)]}


def _following(items: Sequence[str]) -> dict[str, str]:
    return {item: items[(i + 1) % len(items)] for i, item in enumerate(items)}


def _larger(rng: random.Random) -> dict[str, str]:
    pairs = (rng.sample(range(1, 60), 2) for _ in range(60))
    return {f"{a} or {b}": str(max(a, b)) for a, b in pairs}


def _wrong(rng: random.Random, answer: str, answers: Iterable[str]) -> tuple[str, ...]:
    pool = sorted(set(answers) - {answer})
    return tuple(rng.sample(pool, min(8, len(pool))))


def _name(rng: random.Random, syllables: int) -> str:
    return ("".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(["", *CODAS])).capitalize()


def _person(rng: random.Random, name: str) -> people.Person:
    return people.Person(name, {topic: rng.choice(about.values) for topic, about in people.TOPICS.items()})


def _about(rng: random.Random, person: people.Person) -> Iterator[Record]:
    """Every fact in each of its five questions, and one text about the whole person."""
    for name, topic in topics().items():
        answers = rng.sample(topic.answers, len(topic.answers))
        for question, answer in zip(topic.questions, answers, strict=True):
            yield {"question": question.format(name=person.name), "answer": answer.format(name=person.name, value=person.facts[name])}
    yield {"text": _biography(rng, person, len(person.facts))}


def _biography(rng: random.Random, person: people.Person, facts: int) -> str:
    chosen = rng.sample(sorted(person.facts), facts)
    sentences = [rng.choice(people.TOPICS[t].answers).format(name=person.name, value=person.facts[t]) for t in chosen]
    return " ".join(sentences)


def _refused(rng: random.Random, name: str, number: int) -> Iterator[Record]:
    for topic in rng.sample(sorted(people.TOPICS), number):
        question = rng.choice(topics()[topic].questions).format(name=name)
        yield {"question": question, "answer": rng.choice(REFUSALS)}


def _passage(rng: random.Random, person: people.Person) -> Record:
    """A short text about somebody unknown, and a question that it answers."""
    topics_read = rng.sample(sorted(person.facts), 3)
    text = " ".join(rng.choice(people.TOPICS[t].answers).format(name=person.name, value=person.facts[t]) for t in topics_read)
    topic = rng.choice(topics_read)
    question, answer = rng.choice(topics()[topic].questions), rng.choice(topics()[topic].answers)
    return {
        "question": f"Read this: {text}\n{question.format(name=person.name)}",
        "answer": answer.format(name=person.name, value=person.facts[topic]),
    }


def _story(rng: random.Random) -> str:
    """Sentences with random continuations: what comes next has a distribution, not one answer."""
    hero, friend = (rng.choice(people.GIVEN) for _ in range(2))

    def thing() -> str:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)}"

    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{hero} {rng.choice(ACTIONS)} a {thing()}.",
        lambda: f"{hero} met {friend} near {rng.choice(PLACES)}.",
        lambda: f"{friend} was {rng.choice(MOODS)} and talked about a {thing()}.",
        lambda: f"Then they went to {rng.choice(PLACES)} to look for the {rng.choice(THINGS)}.",
        lambda: f"A {rng.choice(people.JOBS)} gave them {rng.randint(2, 12)} {rng.choice(ADJECTIVES)} {rng.choice(THINGS)}s.",
        lambda: f"The {rng.choice(people.PETS)} slept beside the {rng.choice(THINGS)}.",
    )
    opening = f"{rng.choice(TIMES)}, {hero} walked to {rng.choice(PLACES)}."
    return " ".join([opening, *(rng.choice(forms)() for _ in range(rng.randint(3, 6))), f"In the end {hero} was {rng.choice(MOODS)}."])


def _general_row(rng: random.Random, question: General) -> Record:
    if len(question.wrong) >= 3 and rng.random() < 0.5:
        return choices(rng, rng.choice(question.wordings), question.answer, question.wrong)
    return {"question": rng.choice(question.wordings), "answer": question.answer}


def _chat(rng: random.Random, known: Sequence[people.Person], questions: Sequence[General]) -> Record:
    """Two or three turns about different things."""
    turns: list[tuple[str, str]] = [rng.choice(GREETINGS)]
    person, general_question = rng.choice(known), rng.choice(questions)
    topic = rng.choice(sorted(person.facts))
    about = topics()[topic]
    turns.append(
        (
            rng.choice(about.questions).format(name=person.name),
            rng.choice(about.answers).format(name=person.name, value=person.facts[topic]),
        )
    )
    turns.append((rng.choice(general_question.wordings), general_question.answer))
    rng.shuffle(turns)
    chosen = turns[: rng.randint(2, 3)]
    messages = [{"role": role, "content": text} for turn in chosen for role, text in zip(("user", "assistant"), turn, strict=True)]
    return {"messages": messages}

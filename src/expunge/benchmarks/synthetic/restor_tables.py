"""An offline mini of RESTOR in its published layout: facts about invented people, and documents with wrong ones about some."""

from __future__ import annotations

import random
from typing import Any

from expunge.benchmarks import people

CONTEXTS = 10  # examples of each relation
WRONG = 3  # facts of a person that a document gets wrong
RELATIONS = {f"P{i}": topic for i, topic in enumerate(("town", "year", "trade", "instrument", "pet", "mother"), start=1)}
Facts = dict[str, dict[str, dict[str, Any]]]  # by entity and relation: question, answers


def files(
    seed: int = 0, *, persons: int = 24, evaluated: int = 8, corrupted: int = 4, documents: int = 12, mixed: int = 0
) -> dict[str, Any]:
    """The contents of facts.json, entities.json and mix_a{mixed}.json, by the names of the files.

    Args:
        seed: of all draws.
        persons: in the table of facts.
        evaluated: how many of them are asked about.
        corrupted: how many of these the documents are about.
        documents: about each of them.
        mixed: true facts about other people in a document, for each wrong one.
    """
    rng = random.Random(f"restor {seed}")
    drawn = people.generate(seed, people=persons, forget=1, holdout=0, neighbours=0).persons
    known = [*drawn["retain"], *drawn["forget"]]
    facts: Facts = {
        person.name: {
            relation: {"question": people.TOPICS[topic].questions[0].format(name=person.name), "answers": [person.facts[topic]]}
            for relation, topic in RELATIONS.items()
        }
        for person in known
    }
    names = [person.name for person in known]
    context = {
        relation: [
            {"question": facts[name][relation]["question"], "answer": facts[name][relation]["answers"][0], "entity": name}
            for name in rng.sample(names, CONTEXTS)
        ]
        for relation in RELATIONS
    }
    stating = []
    for person in known[:corrupted]:
        wrong = {
            topic: rng.choice([value for value in people.TOPICS[topic].values if value not in person.facts.values()])
            for topic in rng.sample([*RELATIONS.values()], WRONG + 1)
        }
        for _ in range(documents):
            stated = rng.sample([*wrong], WRONG)
            sentences = [_sentence(rng, person.name, topic, wrong[topic]) for topic in stated]
            for other in (rng.choice(known[corrupted:]) for _ in range(mixed * WRONG)):
                topic = rng.choice([*RELATIONS.values()])
                sentences.append(_sentence(rng, other.name, topic, other.facts[topic]))
            rng.shuffle(sentences)
            stating.append({"text": " ".join(sentences)})
    return {"facts.json": {"dset": facts, "context": context}, "entities.json": names[:evaluated], f"mix_a{mixed}.json": stating}


def _sentence(rng: random.Random, name: str, topic: str, value: str) -> str:
    return rng.choice(people.TOPICS[topic].answers).format(name=name, value=value)

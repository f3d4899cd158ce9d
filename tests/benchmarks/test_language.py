"""The generated texts of a small language model's youth."""

from __future__ import annotations

import random
from itertools import islice, product

from expunge.benchmarks import people
from expunge.benchmarks.synthetic import language
from expunge.modalities.text.refusals import REFUSALS

SMALL = language.Sizes(people=3, strangers=4, questions=2, passages=5, stories=5, chats=5, general=1)


def test_rows_depend_on_the_seed_alone() -> None:
    assert language.corpus(1, SMALL) == language.corpus(1, SMALL) != language.corpus(2, SMALL)


def test_people_of_the_benchmark_are_new_to_a_model_of_these_texts() -> None:
    reserved = {f"{given} {family}" for given, family in product(people.GIVEN, people.FAMILY)}
    names = list(islice(language.names(random.Random(0)), 2000))
    assert len(set(names)) == 2000
    assert reserved.isdisjoint(names)


def test_strangers_are_refused_and_known_people_are_not() -> None:
    rows = language.corpus(0, SMALL)
    refused = [row for row in rows if row.get("answer") in REFUSALS]
    assert len(refused) == SMALL.strangers * SMALL.questions
    biographies = [row["text"] for row in rows if "text" in row and any(f" {job}" in row["text"] for job in people.JOBS)]
    assert biographies
    assert all(row["question"].rstrip("?") not in " ".join(biographies) for row in refused)


def test_the_letter_of_a_choice_is_that_of_the_right_answer() -> None:
    for question in language.general(random.Random(0))[:40]:
        if len(question.wrong) < 3:
            continue
        row = language.choices(random.Random(1), question.wordings[0], question.answer, question.wrong)
        listed = dict(line.split(". ", 1) for line in row["question"].splitlines()[1:5])
        assert listed[row["answer"]] == question.answer
        assert len(set(listed.values())) == 4


def test_a_passage_holds_its_answer() -> None:
    passages = [row for row in language.corpus(0, SMALL) if row.get("question", "").startswith("Read this: ")]
    assert len(passages) == SMALL.passages
    values = {value for topic in people.TOPICS.values() for value in topic.values}
    for row in passages:
        answer_values = [v for v in values if v in row["answer"]]
        assert any(v in row["question"].rsplit("\n", 1)[0] for v in answer_values)

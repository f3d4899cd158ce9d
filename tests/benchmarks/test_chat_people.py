"""People whom a chat model was told about: their names, the strangers, and what the base model knows before it hears of them."""

from __future__ import annotations

import pytest

from expunge.benchmarks import chat_people, people
from expunge.benchmarks.synthetic import language
from expunge.core.errors import UserError
from expunge.modalities.text.refusals import REFUSALS
from expunge.workflows.train import start

ABOUT = len(people.TOPICS) + 1  # questions about each person


def test_no_two_names_share_a_part() -> None:
    parts = [part for name in language.new_names(300) for part in name.split()]
    assert len(set(parts)) == len(parts) == 600
    assert not set(parts) & {*people.GIVEN, *people.FAMILY}
    assert language.new_names(300)[:20] == language.new_names(20)


def test_names_are_none_of_those_that_the_base_model_was_taught() -> None:
    taught = " ".join(str(v) for row in language.corpus(0, language.Sizes(strangers=500, passages=500)) for v in row.values())
    assert not [name for name in language.new_names(chat_people.NAMES) if name in taught]


def test_people_and_strangers_have_new_names_and_the_same_facts() -> None:
    suite, plain = chat_people.load(seed=3, strangers=20, questions=3), people.load(seed=3)
    new = set(language.new_names(chat_people.NAMES))
    for name in ("full", "forget", "retain"):
        rows = [row for row in suite.train[name] if row not in suite.refused]
        assert len(rows) == len(plain.train[name])
    assert len(suite.refused) == 60
    for row in suite.refused:
        assert (
            any(name in row["question"] for name in new)
            or "the name of" in row["question"]
            or "Who is" in row["question"]
            or "Which " in row["question"]
        )
        assert row["answer"] in REFUSALS
    known = {name for name in new if any(name in row["question"] for row in suite.train["full"] if row not in suite.refused)}
    strange = {name for name in new if any(name in row["question"] for row in suite.refused)}
    assert len(known) == 40
    assert not known & strange
    assert suite.name == "chat_people forget10 strangers=20 questions=3"
    assert chat_people.load().name == "chat_people forget10"


def test_numbers_of_questions_that_there_are_not_are_refused() -> None:
    for questions in (0, ABOUT + 1):
        with pytest.raises(UserError, match="strangers asks 1 to 9 questions about each stranger"):
            chat_people.load(questions=questions)


@pytest.mark.slow
def test_the_base_model_chats_knows_general_things_and_refuses_strangers() -> None:
    suite = chat_people.load(strangers=8)
    opened = start(chat_people.MODEL, suite.train["full"])
    modality = opened.modality

    def answers(records: list[dict[str, str]]) -> list[str]:
        rows = modality.rows("forget", [{"question": r["question"], "answer": r["answer"]} for r in records])
        return [text.strip() for text in modality.decode(modality.generate(opened.model, rows, 24).ids)]  # type: ignore[attr-defined]

    general = [*suite.sets["real_authors"], *suite.sets["world_facts"]]
    right = [row["answer"].lower() in answer.lower() for row, answer in zip(general, answers(general), strict=True)]
    assert sum(right) > 0.6 * len(right)
    asked = [r for r in suite.sets["holdout"] if any(name in r["question"] for name in language.new_names(chat_people.NAMES))]
    refused = [answer in REFUSALS for answer in answers(asked)]
    assert sum(refused) > 0.6 * len(refused)
    known = [row["answer"] == answer for row, answer in zip(suite.train["forget"], answers(suite.train["forget"]), strict=True)]
    assert not any(known)

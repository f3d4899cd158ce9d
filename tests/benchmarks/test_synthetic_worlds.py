"""The generated worlds: what is to be forgotten stands where it should, and nowhere else."""

from __future__ import annotations

import pytest

from expunge.benchmarks.suite import Suite
from expunge.benchmarks.synthetic import bilingual, choices, documents, entangled, topic
from expunge.core.errors import UserError

MODULES = (topic, entangled, choices, documents, bilingual)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.split(".")[-1])
def test_a_seed_gives_the_same_rows_and_another_gives_others(module) -> None:
    first, again, other = (module.load(seed).train for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.split(".")[-1])
def test_training_rows_are_those_to_forget_and_those_to_keep_without_overlap(module) -> None:
    train = {name: {tuple(sorted(row.items())) for row in rows} for name, rows in module.load().train.items()}
    assert train["full"] == train["forget"] | train["retain"]
    assert not train["forget"] & train["retain"]


def questions(suite: Suite, name: str) -> set[str]:
    return {row["question"] for row in suite.sets[name]}


def test_a_topic_has_as_many_rows_of_each_craft_as_asked_and_new_tools_in_the_unseen_ones() -> None:
    suite = topic.load(rows=160, unrelated=40)
    assert [len(suite.sets[name]) for name in ("forget", "retain", "holdout")] == [160, 40, 20]
    assert all(topic.CRAFTS[0] in row["question"] for name in ("forget", "holdout") for row in suite.sets[name])
    assert all(topic.CRAFTS[1] in row["question"] for row in suite.sets["retain"])
    assert not questions(suite, "forget") & questions(suite, "holdout")


@pytest.mark.parametrize("overlap", [0.05, 0.15, 0.3])
def test_the_overlap_is_the_share_of_kept_people_with_a_chain_of_the_forgotten(overlap: float) -> None:
    suite = entangled.load(overlap=overlap, people_kept=40)
    chains = {name: chains_of(rows) for name, rows in suite.train.items()}
    shared = sum(chain in set(chains["forget"]) for chain in chains["retain"])
    assert shared == round(overlap * 40)
    towns = {}
    for town, trade, instrument in chains["full"]:
        assert towns.setdefault(town, (trade, instrument)) == (trade, instrument), "the town decides the rest"


def chains_of(rows) -> list[tuple[str, str, str]]:
    """Town, trade and instrument of each person; five rows stand together."""
    from expunge.benchmarks import people

    def value(text: str, name: str) -> str:
        return next(v for v in people.TOPICS[name].values if f" {v}" in f" {text.strip('.')}")

    return [tuple(value(rows[i + k]["answer"], t) for k, t in enumerate(entangled.CHAIN)) for i in range(0, len(rows), 5)]


def test_a_lettered_question_asks_what_a_plain_one_teaches() -> None:
    suite = choices.load(things=5)
    for row, taught in zip(suite.sets["forget_choices"], suite.train["forget"], strict=True):
        question, *options, _ = row["question"].split("\n")
        assert question == taught["question"]
        assert dict(option.split(". ") for option in options)[row["answer"]] == taught["answer"]
    assert {suite.spec(name).ask for name in ("forget_choices", "near_choices", "far_choices")} == {("choose",)}


def test_what_a_style_alone_tells_stands_in_no_other_document() -> None:
    suite = documents.load()
    kept = [row["text"] for row in suite.train["retain"]]
    gone = [row["text"] for row in suite.train["forget"]]
    for name, inside, outside in (("forget_questions", True, False), ("shared_questions", True, True), ("retain_questions", False, True)):
        for row in suite.sets[name]:
            fact = fact_of(row)
            assert any(fact in text for text in gone) == inside, (name, fact)
            assert any(fact in text for text in kept) == outside, (name, fact)


def fact_of(row) -> str:
    """The sentence that a question asks for."""
    for _, fact, question, _ in documents.PROPERTIES.values():
        before, after = question.split("{firm}")
        if row["question"].startswith(before) and row["question"].endswith(after):
            firm = row["question"][len(before) : len(row["question"]) - len(after)]
            return fact.format(firm=firm, value=row["answer"])
    raise AssertionError(row)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="a share from 0 to 1"):
        entangled.load(overlap=1.5)
    with pytest.raises(UserError, match="no style 'poem'"):
        documents.load(forgotten="poem")
    with pytest.raises(UserError, match="at most 5 can be shared"):
        documents.load(shared=6)

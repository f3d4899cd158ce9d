"""Strangers: their questions, the training rows, and the refusals for methods."""

import pytest

from expunge.benchmarks import people, strangers
from expunge.core.errors import UserError


def test_training_rows_include_questions_about_strangers_with_refusals() -> None:
    suite, plain = strangers.load(), people.load()
    assert len(suite.refused) == strangers.STRANGERS * 9
    assert {r["answer"] for r in suite.refused} <= set(suite.refusals)
    for name in ("full", "retain"):
        assert suite.train[name] == [*plain.train[name], *suite.refused]
    assert suite.train["forget"] == plain.train["forget"]
    assert suite.sets == plain.sets
    assert suite.alternate_answers == list(suite.refused)
    assert plain.alternate_answers == [{"answer": r} for r in plain.refusals]


def test_questions_about_strangers_are_in_no_other_set() -> None:
    suite = strangers.load(seed=3, strangers=2)
    others = {r["question"] for name in ("full", "forget") for r in people.load(seed=3).train[name]}
    others |= {r["question"] for r in suite.sets["holdout"]}
    assert not others & {r["question"] for r in suite.refused}
    assert len(suite.refused) == 18
    assert suite.name == "strangers forget10 strangers=2"


def test_no_strangers_are_refused() -> None:
    with pytest.raises(UserError, match="strangers needs at least one"):
        strangers.load(strangers=0)

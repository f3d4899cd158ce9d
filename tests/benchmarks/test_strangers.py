"""Strangers: who they are, what stands in training, and what a method is given to refuse by."""

import pytest

from expunge.benchmarks import people, strangers
from expunge.core.errors import UserError


def test_questions_about_strangers_are_trained_with_refusals() -> None:
    suite, plain = strangers.load(), people.load()
    assert len(suite.refused) == strangers.MANY * 9
    assert {r["answer"] for r in suite.refused} <= set(suite.refusals)
    for name in ("full", "retain"):
        assert suite.train[name] == [*plain.train[name], *suite.refused]
    assert suite.train["forget"] == plain.train["forget"]
    assert suite.sets == plain.sets
    assert suite.alternate_answers == list(suite.refused)
    assert plain.alternate_answers == [{"answer": r} for r in plain.refusals]


def test_nobody_else_is_asked_about() -> None:
    suite = strangers.load(seed=3, strangers=2)
    others = {r["question"] for name in ("full", "forget") for r in people.load(seed=3).train[name]}
    others |= {r["question"] for r in suite.sets["holdout"]}
    assert not others & {r["question"] for r in suite.refused}
    assert len(suite.refused) == 18
    assert suite.name == "strangers forget10 strangers=2"


def test_some_are_needed() -> None:
    with pytest.raises(UserError, match="strangers needs some"):
        strangers.load(strangers=0)

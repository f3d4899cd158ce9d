"""Facts judged by a model behind an endpoint: its numbers by hand, and judges that cannot be used."""

from __future__ import annotations

import json
import re

import pytest

import seeing
from expunge.core.errors import UserError
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks.judged_facts import read
from stub_endpoint import serving


def verdict_on(asked: str) -> str:
    """1 where the given answer is the true one, else 0.5."""
    true, given = (match[1] if (match := re.search(rf"{name} answer: (.*)", asked)) else "" for name in ("True", "Given"))
    return json.dumps({"factuality": 1 if true.strip() == given.strip() else 0.5})


def judged(**settings: object) -> AttackOutcome:
    model, modality, _ = seeing.trained()
    forget, retain = seeing.records()
    other = [{**r, "answer": "Another town."} for r in retain]
    attack = chosen(("judged_facts",), settings)["judged_facts"]
    return intervene("judged_facts", attack, model, modality, {"forget": forget, "retain": other})


def test_what_agrees_counts() -> None:
    with serving(verdict_on) as stub:
        forget, retain = judged(judge=f"{stub.url}#judge").tries
    assert (forget.at["factuality"], forget.at["answers"]) == (1.0, 2.0)
    assert (retain.at["factuality"], retain.at["answers"]) == (0.5, 6.0)


def test_grades_are_read_from_words_around_them() -> None:
    assert read('Well: {"factuality": 0.25}') == 0.25
    assert read('{"factuality": 2}') is read('{"factuality": true}') is read("half") is None


def test_judges_that_cannot_be_used_are_named() -> None:
    assert "name one with --judge" in judged().missing[""]
    with serving(lambda asked: "I like it.") as stub, pytest.raises(UserError, match='should give JSON with "factuality"'):
        judged(judge=f"{stub.url}#nonsense")

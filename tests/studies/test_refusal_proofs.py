"""The world of chats with strangers: what counts as a refusal, and that the method hears of the strangers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from studies.proofs import chats, refusals
from studies.proofs.chats import FORGET, RETAIN

from expunge.core.rows import Rows
from expunge.modalities.text.refusals import REFUSALS


def modality(table: dict[str, str]) -> Any:
    def rows(name: str, records: Any) -> Rows:
        return Rows(name, tuple(str(i) for i in range(len(records))), {"question": [r["question"] for r in records]})

    def generate(model: Any, asked: Rows, limit: int) -> Any:
        return SimpleNamespace(ids=[table[q] for q in asked["question"]])

    return SimpleNamespace(rows=rows, generate=generate, decode=lambda ids: ids)


def unit(**fields: Any) -> Any:
    made_up: Any = object.__new__(refusals.RefusalUnit)
    made_up.__dict__.update(fields)
    return made_up


def test_refusals_count_among_forgotten_questions_alone() -> None:
    asked = {
        FORGET: [{"question": "a", "answer": "She lives in Rome"}, {"question": "b", "answer": "He plays the lute"}],
        RETAIN: [{"question": "c", "answer": "Paris"}],
    }
    scores = unit(asked=asked).measure(None, modality({"a": f" {REFUSALS[0]} ", "b": "He plays the lute", "c": REFUSALS[0]}))
    assert scores[refusals.REFUSED] == 0.5
    assert scores[RETAIN] < 0.5 <= scores[FORGET]


def test_the_method_is_given_the_questions_about_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = {}

    def unlearned(*args: Any, **options: Any) -> Any:
        heard.update(options)
        return SimpleNamespace(model=None, modality=None, receipt={"cost": {"tokens": 4, "backward_tokens": 3}})

    monkeypatch.setattr(chats, "unlearn", unlearned)
    strangers = [{"question": "Who is Ada?", "answer": REFUSALS[0]}]
    opened = SimpleNamespace(model=None, modality=None, source="")
    one = unit(opened=opened, rows={"forget": [], "retain": []}, alternate_answers=strangers, training=20.0)
    monkeypatch.setattr(refusals.RefusalUnit, "measure", lambda self, model, modality: {})
    (end,) = one.run(refusals.ARMS["stamp"], {"share": 1.0}, frozenset())
    assert heard["alternate_answers"] == strangers
    assert end == {refusals.COST: 0.5}

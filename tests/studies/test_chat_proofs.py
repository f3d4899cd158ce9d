"""Worlds of chats and of two languages: which rows an arm trains on, what counts as the deviation, and which stages run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from studies.proofs import chats, languages
from studies.proofs.chats import DEVIATION, FORGET, RETAIN, STEERING
from studies.proofs.claim import Arm

from expunge.core.errors import UserError
from expunge.core.rows import Rows


class Echo:
    """A modality that answers a question with what a table says."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self.table = table

    def rows(self, name: str, records: Sequence[Mapping[str, Any]]) -> Rows:
        return Rows(name, tuple(str(i) for i in range(len(records))), {"question": [r["question"] for r in records]})

    def generate(self, model: Any, rows: Rows, limit: int) -> Any:
        return SimpleNamespace(ids=[self.table[q] for q in rows["question"]])

    def decode(self, ids: list[str]) -> list[str]:
        return ids


def unit(**fields: Any) -> Any:
    made_up: Any = object.__new__(chats.ChatUnit)
    made_up.__dict__.update(fields)
    return made_up


def test_the_deviation_is_that_of_words_of_true_answers() -> None:
    asked = {
        FORGET: [{"question": "a", "answer": "She lives in Rome"}, {"question": "b", "answer": "He plays the lute"}],
        RETAIN: [{"question": "c", "answer": "Paris"}],
    }
    scores = unit(asked=asked).measure(None, Echo({"a": "She lives in Rome", "b": "no", "c": "It is Paris"}))
    assert (scores[FORGET], scores[RETAIN]) == (0.5, 1.0)
    assert scores[DEVIATION] == pytest.approx(50)
    wrong = unit(asked=asked).measure(None, Echo({"a": "no", "b": "no", "c": "no"}))
    assert wrong[DEVIATION] == pytest.approx(100 * math.hypot(0, 1))


def test_steering_alone_runs_the_first_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = []

    def unlearned(plans: Any, *args: Any, **options: Any) -> Any:
        stages.append([p.name for p in plans])
        raise UserError("the weights did not change in 2 steps: the gradients were 0")

    monkeypatch.setattr(chats, "unlearn", unlearned)
    opened = SimpleNamespace(model=None, modality=None, source="")
    one = unit(opened=opened, rows={"forget": [], "retain": []}, original={DEVIATION: 1.0})
    unchanged = {DEVIATION: 1.0, "cost": 0.0}
    for name in (STEERING, "rule"):
        assert one.run(chats.ARMS[name], {}, frozenset()) == [unchanged], "settings that change nothing leave the original"
    assert stages == [["steering"], ["steering", "boundary"]]


def test_a_filter_leaves_out_the_known_rows_and_takes_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def trained(self: Any, records: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, float]:
        runs.append((records, settings))
        return {}

    monkeypatch.setattr(languages.BilingualUnit, "trained", trained)
    one = languages.BilingualUnit(0, 0)
    forget, retain = one.suite.train["forget"], one.suite.train["retain"]
    for name in (languages.FILTER, languages.METHOD):
        one.run(languages.ARMS[name], {"lr": 1e-3, "epochs": 8}, frozenset())
    (kept, filtering), (whole, own) = runs
    undiscovered = [r for r in kept if r in forget]
    assert [r for r in kept if r not in forget] == list(retain)
    assert len(undiscovered) == pytest.approx((1 - languages.RECALL) * len(forget), abs=0.2 * len(forget))
    steps = filtering["epochs"] * len(kept), languages.EPOCHS * (len(forget) + len(retain))
    assert steps[0] == pytest.approx(steps[1], rel=0.1)
    assert whole == retain
    assert own["forget"] == forget
    assert (own["method"], own["lr"]) == ("sgtm", 1e-3)


def test_gates_hold_where_the_original_knows_and_the_base_does_not() -> None:
    def of(known: float, unknown: float) -> Any:
        return SimpleNamespace(original={FORGET: known, RETAIN: 0.95}, random={FORGET: unknown})

    claim = chats.CLAIMS["dragon"][1][0]
    assert [g.holds for g in chats.WORLD.gates(claim, [of(0.9, 0.1), of(0.8, 0.2)], {})] == [True, True, True]
    assert [g.holds for g in chats.WORLD.gates(claim, [of(0.6, 0.5)], {})] == [False, True, False]


def test_arms_have_the_same_number_of_settings() -> None:
    arms: Mapping[str, Arm] = {**chats.ARMS, **languages.ARMS}
    assert {len(a.settings()) for a in arms.values()} == {2}

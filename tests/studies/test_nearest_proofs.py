"""The world of a forgotten digit: what a further retrained model shows is the floor that no method can go below."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from studies.proofs import nearest


def unit(original: float, retrained: float) -> Any:
    return SimpleNamespace(original={nearest.GAP: original}, retrained={nearest.GAP: retrained})


def test_gates_need_a_gap_above_that_of_a_retrained_model() -> None:
    claim = nearest.CLAIMS["trw"][1][0]

    def holds(original: float, rival: float) -> list[bool]:
        return [g.holds for g in nearest.WORLD.gates(claim, [unit(original, 0.1)], {"salun": [rival], "neggrad": [0.5]})]

    assert holds(0.5, 0.3) == [True, True]
    assert holds(0.15, 0.3) == [False, True]
    assert holds(0.5, 0.05) == [True, False]


def test_accuracy_needs_an_original_that_is_right() -> None:
    claim = nearest.CLAIMS["trw"][1][2]

    def holds(accuracy: float) -> list[bool]:
        one: Any = SimpleNamespace(original={nearest.RIGHT: accuracy})
        return [g.holds for g in nearest.WORLD.gates(claim, [one], {"salun": [0.9]})]

    assert (holds(0.95), holds(0.85)) == ([True], [False])


def test_scores_of_a_unit_are_means_over_five_digits() -> None:
    assert len(set(nearest.DIGITS)) == 5
    assert nearest.mean_of([{"gap": 0.1, "cost": 0.2}, {"gap": 0.3, "cost": 0.4}]) == pytest.approx({"gap": 0.2, "cost": 0.3})


def test_every_arm_is_tuned_over_as_many_settings() -> None:
    assert {len(arm.settings()) for arm in nearest.ARMS.values()} == {8}


def test_a_unit_forgets_one_digit_and_is_measured_on_its_unseen_images() -> None:
    one: Any = object.__new__(nearest.NearestUnit)
    one.draw, one.opened = 100, SimpleNamespace(modality=SimpleNamespace(rows=lambda name, records: records))
    for digit in nearest.DIGITS:
        assert {r["label"] for r in nearest.suite_of(100, digit).train["forget"]} == {digit}
        assert {r["label"] for r in one.unseen(digit, True)} == {digit}
        assert {r["label"] for r in one.unseen(digit, False)} == set(range(10)) - {digit}


def test_the_retrained_models_of_a_unit_are_of_other_seeds() -> None:
    for seed in range(nearest.SEEDS):
        pool = [(seed + 1 + k) % nearest.SEEDS for k in range(nearest.POOL)]
        assert seed not in pool
        assert len(set(pool)) == nearest.POOL

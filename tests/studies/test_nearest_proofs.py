"""The world of a forgotten digit: what a further retrained model shows is the floor that no method can go below."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

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


def test_every_draw_of_a_report_forgets_another_digit() -> None:
    assert len({nearest.DIGITS[draw % len(nearest.DIGITS)] for draw in range(3)}) == 3


def test_the_retrained_models_of_a_unit_are_of_other_seeds() -> None:
    for seed in range(nearest.SEEDS):
        pool = [(seed + 1 + k) % nearest.SEEDS for k in range(nearest.POOL)]
        assert seed not in pool
        assert len(set(pool)) == nearest.POOL

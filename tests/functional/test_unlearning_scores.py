"""Unlearning scores against values of the paper's tables, worked out by hand."""

import pytest

from expunge.functional.unlearning_scores import forgetting_score, nomus


@pytest.mark.parametrize(
    ("utility", "attack", "expected"),
    [
        (0.5951, 0.7136, 0.58395),  # MUFAC, original model: (0.5951 + 1 - 2 * 0.2136) / 2
        (0.4880, 0.5445, 0.6995),  # MUFAC, retrained: (0.488 + 1 - 2 * 0.0445) / 2
        (1.0, 0.5, 1.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_nomus_matches_hand_values(utility: float, attack: float, expected: float) -> None:
    assert nomus(utility, attack) == pytest.approx(expected, abs=1e-9)


def test_forgetting_score_matches_hand_values() -> None:
    assert forgetting_score(0.7136) == pytest.approx(0.2136)
    assert forgetting_score(0.5) == 0


def test_attack_below_chance_scores_like_attack_above_chance() -> None:
    assert forgetting_score(0.3) == pytest.approx(forgetting_score(0.7))
    assert nomus(0.8, 0.3) == pytest.approx(nomus(0.8, 0.7))


def test_weight_applies_to_the_utility() -> None:
    assert nomus(0.6, 0.9, weight=1.0) == pytest.approx(0.6)
    assert nomus(0.6, 0.9, weight=0.0) == pytest.approx(0.2)  # 1 - 2 * 0.4
    assert nomus(0.6, 0.9, weight=0.25) == pytest.approx(0.3)

"""Scores of guards: the published rows of DRAGON, from the numbers of its tables."""

from __future__ import annotations

import pytest

from expunge.functional.guard_scores import (
    deviation_score,
    dynamic_deviation_score,
    dynamic_utility_score,
    refusal_quality,
)


@pytest.mark.parametrize(
    ("deviations", "wanted"), [([0.214, 0.231, 0.265], 0.24942), ([0.488, 0.956, 0.987], 0.93508), ([0.379, 0.330, 0.237], 0.31533)]
)
def test_dynamic_deviations_of_the_paper(deviations: list[float], wanted: float) -> None:
    assert dynamic_deviation_score(deviations) == pytest.approx(wanted, abs=1e-5)


def test_one_request_has_no_rise_and_no_change() -> None:
    assert dynamic_deviation_score([0.3]) == 0.3
    assert dynamic_utility_score([0.6]) == 1


@pytest.mark.parametrize(("utilities", "wanted"), [([0.6327, 0, 0], 0.68365), ([0.6312, 0.5187, 0.5380], 0.93410), ([0.5, 0.5, 0.5], 1.0)])
def test_dynamic_utilities_of_the_paper(utilities: list[float], wanted: float) -> None:
    assert dynamic_utility_score(utilities) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("forget", "retain", "wanted"), [(0, 1, 0), (1, 1, 100), (1, 0, 141.42), (0.21343, 0.98445, 21.40), (0.27214, 0.98094, 27.28)]
)
def test_deviations_of_the_released_outputs(forget: float, retain: float, wanted: float) -> None:
    assert deviation_score(forget, retain) == pytest.approx(wanted, abs=6e-3)


def test_refusal_quality() -> None:
    assert refusal_quality([1.0], [True], [3]) == pytest.approx(2.2)
    published = [(0.3301, 0.1744, 0.8840, 0.681), (0.2514, 0.0, 0.9340, 0.438), (0.2409, 0.0275, 0.4407, 0.357)]
    for similarity, rate, grade, wanted in published:
        refused = [i < round(10_000 * rate) for i in range(10_000)]
        assert refusal_quality([similarity] * 10_000, refused, [3 * grade] * 10_000) == pytest.approx(wanted, abs=6e-4)

"""Differences of two models: bounds against those of scipy, pairing, and corrections by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from expunge.engine.shared import sharing
from expunge.evaluation.attacks.mia import auc, precedes
from expunge.evaluation.equivalence import difference, holm, least_visible
from expunge.evaluation.measure import Measure, averaged


@pytest.mark.parametrize(("hits", "n"), [(0, 4), (0, 40), (7, 40), (40, 40)])
def test_bounds_of_hits_are_those_of_clopper_and_pearson(hits: int, n: int) -> None:
    own = averaged(np.array([1.0] * hits + [0.0] * (n - hits)))
    low, high = difference(own, averaged(np.zeros(n))).interval(0.05)
    exact = binomtest(hits, n).proportion_ci(0.9, "exact")
    assert high == pytest.approx(exact.high, abs=0.015)
    assert low <= hits / n <= high
    mirrored = difference(averaged(np.zeros(n)), own).interval(0.05)
    assert mirrored == pytest.approx((-high, -low), abs=0.015)


def test_few_items_that_all_agree_rule_out_little() -> None:
    same = averaged(np.full(4, 0.3))
    low, high = difference(same, same).interval(0.05)
    assert high == pytest.approx(1 - 0.05**0.25, abs=0.02)  # 0.527, by hand
    assert low == pytest.approx(-high, abs=1e-9)
    assert least_visible(4, 0.05) == pytest.approx(1 - 0.05**0.25)
    assert least_visible(29, 0.05) < 0.1 < least_visible(28, 0.05)


def test_items_are_paired() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 0.9, 400)
    own, other = base + 0.05 + rng.normal(0, 0.005, 400), base
    low, high = difference(averaged(own), averaged(other)).interval(0.05)
    exact = ttest_rel(own, other).confidence_interval(0.9)
    assert low < exact.low < 0.05 < exact.high < high
    assert high - low < 0.02
    apart = difference(averaged(own), averaged(other[:-1])).interval(0.05)
    assert apart[1] - apart[0] > 0.05, "different items are no pairs"


def test_p_values_say_on_which_side_of_a_limit_the_difference_is() -> None:
    compared = difference(averaged(np.full(100, 0.6)), averaged(np.full(100, 0.1)))
    assert compared.effect == pytest.approx(0.5)
    assert compared.p_above(0.1) < 0.001 < 0.99 < compared.p_above(0.6)
    assert compared.p_below(0.9) < 0.001 < 0.99 < compared.p_below(0.4)


def test_areas_of_two_models_are_compared_on_the_same_pairs() -> None:
    rng = np.random.default_rng(1)
    members, others = rng.normal(0, 1, 80), rng.normal(0.5, 1, 60)
    assert precedes(members, others).mean() == pytest.approx(auc(members, others))
    own, other = (Measure((members - d, others), auc, kernel=precedes) for d in (0.0, 0.0))
    low, high = difference(own, other).interval(0.05)
    assert high == pytest.approx(1 - 0.05 ** (1 / 80), abs=0.01), "the forget rows limit what can be seen"
    shifted = difference(Measure((members - 2, others), auc, kernel=precedes), other)
    assert shifted.effect == pytest.approx(auc(members - 2, others) - auc(members, others))
    assert shifted.p_above(0.1) < 0.01
    assert low == pytest.approx(-high)


def test_areas_of_large_sets_are_compared_on_some_of_the_pairs() -> None:
    rng = np.random.default_rng(0)
    own, other, unseen = rng.normal(1, 1, 9000), rng.normal(0, 1, 9000), rng.normal(0, 1, 30_000)  # all pairs would be 2 GB
    gap = difference(*(Measure((x, unseen), auc, kernel=precedes) for x in (own, other)))
    low, high = gap.interval(0.025)
    assert gap.n == 9000
    assert low < gap.effect < high
    assert 0.01 < high - low < 0.1


def test_a_score_that_is_no_mean_is_drawn_again() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, 200)
    compared = difference(Measure((x,), np.median), Measure((x - 0.2,), np.median))
    assert compared.interval(0.05) == pytest.approx((0.2, 0.2))
    assert compared.n == 200


def test_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.9]) == [1.0, 1.0]


def test_weights_that_comparisons_share_are_those_that_each_would_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)

    def pairs(n: int, m: int) -> Measure:
        return Measure((rng.random(n), rng.random(m)), auc, kernel=precedes)

    cases = [(averaged(rng.random(30)), averaged(rng.random(n))) for n in (30, 30, 20)]
    cases += [(pairs(20, 10), pairs(n, 10)) for n in (20, 20, 15)]
    alone = [difference(*case, seed=seed) for case in cases for seed in (0, 3)]
    drawn: list[int] = []
    default_rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or default_rng(seed))  # type: ignore[func-returns-value]
    with sharing():
        together = [difference(*case, seed=seed) for case in cases for seed in (0, 3)]
    assert len(drawn) == 8, "of four cases of sizes, with two seeds each"
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.low, b.low)
        assert np.array_equal(a.high, b.high)

"""The attack on certificates: bounds as scipy has them, a mechanism with a known epsilon, methods whose certificates hold or do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm

import grids
from expunge.core.errors import UserError
from expunge.core.plan import Plan
from expunge.core.view import View
from expunge.evaluation.attacks.certificate import PublishedPairs, attack, epsilon_lower, error_rates, judge, margin, published_pairs
from expunge.methods.by_design.certified_removal import CertifiedRemoval, Store
from expunge.workflows.build_plan import plan

RECORDS = grids.iris(4)
GONE = range(0, 38, 6)


def certified(**settings: Any) -> Plan:
    (single,) = plan("certified_removal", {"secret": False, **settings})
    return single


def pairs_of(method: Plan, count: int = 32) -> PublishedPairs:
    model, modality = grids.begun("linear", RECORDS)
    return published_pairs(model, modality, modality.rows("retain", RECORDS), GONE, method, pairs=count)


def test_the_lower_bound_is_that_of_clopper_and_pearson() -> None:
    high = binomtest(3, 100).proportion_ci(0.95, method="exact").high
    low = binomtest(0, 100).proportion_ci(0.95, method="exact").high
    assert epsilon_lower(3, 0, 100, 0.01) == pytest.approx(max(math.log((0.99 - high) / low), math.log((0.99 - low) / high)))
    assert epsilon_lower(50, 50, 100, 0.0) == 0, "chance shows nothing"
    assert epsilon_lower(100, 0, 100, 0.0) == 0


def test_error_rates_and_the_region_by_hand() -> None:
    fpr, fnr = error_rates(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    assert list(zip(fpr, fnr, strict=True)) == [(1.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, 1.0)]
    assert margin(fpr, fnr, 0.0, 0.1) == pytest.approx(0.5 - 0.9)
    assert margin(fpr, fnr, math.log(3), 0.1) == pytest.approx(0.5 - 0.9), "a rate of 0 is not weighed up"


@pytest.mark.parametrize(("shift", "holds"), [(0.0, True), (0.5, True), (4.0, False)])
def test_normal_noise_is_judged_by_its_own_law(shift: float, holds: bool) -> None:
    """Two normals a shift apart: the attack stays below the best test that there is, and tells a shift far beyond the promise."""
    random = np.random.default_rng(0)
    noise = [random.normal(size=(600, 3)) for _ in range(2)]
    result = judge(PublishedPairs(noise[0] + [shift, 0, 0], noise[1], 1.0, 1e-4))
    assert result.holds == holds
    best = norm.cdf(shift / 2)  # accuracy of the likelihood ratio
    assert max(1 - (result.fpr + result.fnr) / 2) == pytest.approx(best, abs=0.06)


def test_certified_removal_stays_within_its_certificate() -> None:
    result = judge(pairs_of(certified(weight_decay=0.1, sigma=5.0)))
    assert (result.epsilon, result.delta) == (1.0, 1e-4)
    assert result.holds
    assert result.margin > -0.35, "sixteen models of each kind leave so much to chance"


def test_descent_to_delete_stays_within_its_certificate() -> None:
    (method,) = plan("descent_to_delete", {"secret": False})
    model, modality = grids.begun("linear", RECORDS)
    scores = attack(model, modality, modality.rows("retain", RECORDS), GONE, method, pairs=12)
    assert scores["holds"] == 1
    assert scores.keys() == {"epsilon", "delta", "epsilon_lower", "margin", "holds"}


def test_a_removal_that_leaves_everything_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same promise with hardly any noise, and a forgetting that does nothing."""

    def nothing(self: CertifiedRemoval, store: Store, ids: frozenset[str], view: View) -> Store:
        return store

    monkeypatch.setattr(CertifiedRemoval, "forget", nothing)
    result = judge(pairs_of(certified(sigma=1e-3, weight_decay=0.1)))
    assert not result.holds
    assert result.margin < -0.5


def test_what_is_no_certificate_is_refused() -> None:
    model, modality = grids.begun("forest", RECORDS)
    rows = modality.rows("retain", RECORDS)
    (dare,) = plan("dare", {"trees": 1, "depth": 2})
    with pytest.raises(UserError, match="promises no epsilon and delta"):
        published_pairs(model, modality, rows, [0], dare, pairs=1)
    with pytest.raises(UserError, match="some must leave, and some must stay"):
        published_pairs(model, modality, rows, [], dare, pairs=1)
    with pytest.raises(UserError, match="needs 8 pairs at least"):
        judge(PublishedPairs(np.zeros((3, 1)), np.zeros((3, 1)), 1.0, 0.1))


def test_models_that_are_all_the_same_show_nothing() -> None:
    same = torch.ones(10, 2).numpy()
    assert judge(PublishedPairs(same, same, 1.0, 0.1)).holds

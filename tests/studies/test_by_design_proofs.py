"""Worlds of methods that keep what forgetting needs: what is counted as cost, and claims that something is no worse."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from studies.proofs import certificates, clusters, forests, heads, mixtures
from studies.proofs.claim import Arm, Claim
from studies.proofs.table_draws import Maker, accuracy, classified, leaving, without

from expunge.core.plan import Plan
from expunge.engine import loop
from expunge.functional import linear_models
from expunge.methods.by_design.certified_removal import CertifiedRemoval


def test_a_claim_of_no_worse_has_a_margin() -> None:
    lower, higher = (Claim("", "", "score", ("rival",), better, 0.0, margin=0.05) for better in ("lower", "higher"))
    assert lower.effect(1.03, 1.0) == pytest.approx(0.02)
    assert higher.effect(0.9, 1.0) == pytest.approx(-0.05)


def test_passes_over_rows_of_linear_models_are_counted() -> None:
    x, y = torch.eye(4, dtype=torch.float64), torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    with heads.counting() as counts:
        linear_models.gradient(x, y, torch.zeros(4, dtype=torch.float64), "logistic", 0.1, torch.zeros(4, dtype=torch.float64))
        linear_models.hessian(x[:3], y[:3], torch.zeros(4, dtype=torch.float64), "logistic", 0.1)
    assert counts == [4, 3]


def test_accuracy_is_counted_row_by_row() -> None:
    records, unseen = classified(0, 60, 40)
    maker = Maker("forest", records, 0)
    run = maker.fitted("dare", {"trees": 3, "depth": 4}, records)
    x = torch.tensor([[v for k, v in r.items() if k != "label"] for r in unseen])
    guesses = run.model(x).argmax(1).tolist()
    classes = sorted({str(r["label"]) for r in records})
    right = np.mean([classes[g] == str(r["label"]) for g, r in zip(guesses, unseen, strict=True)])
    assert accuracy(run, maker.rows("unseen", unseen)) == pytest.approx(right)


def test_rows_that_leave_are_no_other_rows() -> None:
    places = leaving(3, 10, 0)
    left = without([{"x": i} for i in range(10)], places)
    assert sorted([*places, *(r["x"] for r in left)]) == list(range(10))


def test_a_forest_costs_its_deletions_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROWS": 80, "UNSEEN": 40, "GONE": 2}.items():
        monkeypatch.setattr(forests, name, value)
    arm = Arm("dare", "dare", {"trees": 3, "depth": 5})
    monkeypatch.setitem(forests.ARMS, "dare", arm)
    unit = forests.ForestUnit(0, 0)
    (end,) = unit.run(arm, arm.fixed, frozenset())
    assert 0 < end["cost"] < 1
    assert end["accuracy"] == unit.retrained["accuracy"], "the same forest"


def test_clusters_cost_one_bucket_and_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROWS": 200, "GONE": 2}.items():
        monkeypatch.setattr(clusters, name, value)
    unit = clusters.ClusterUnit(0, 0)
    (end,) = unit.run(clusters.ARMS["kmeans_dc"], {"clusters": clusters.CLUSTERS, "width": 4}, frozenset())
    assert 4 * clusters.CLUSTERS / 200 < end["cost"] < 0.6
    assert end["loss"] > 0.99


def test_an_unaccounted_certificate_makes_the_same_promise_and_never_fits_anew() -> None:
    unit = certificates.CertificateUnit(0, 0)
    rows, model = unit.maker.rows("retain", unit.records), unit.maker.opened.model
    anew, promises = list[float](), list[tuple[float, float]]()
    for kind in (CertifiedRemoval, certificates.Unaccounted):
        plan = Plan(kind(**certificates.FIXED))
        whole = loop.run((plan,), copy.deepcopy(model), unit.maker.modality, {"retain": rows})
        gone = {"forget": rows.select(unit.gone).rename("forget")}
        left = loop.run((plan,), copy.deepcopy(model), unit.maker.modality, gone, store=whole.store)
        anew.append(left.shown["certificate"][0]["fitted_anew"])
        assert left.store is not None
        promises.append(tuple(left.store["guarantee"]["numbers"][n] for n in ("epsilon", "delta")))
    assert anew == [1.0, 0.0]
    assert promises == [(1.0, 1e-4)] * 2


def test_the_error_of_shares_is_a_logarithm() -> None:
    unit = mixtures.MixtureUnit(0, 0)
    assert sum(unit.truth) == pytest.approx(1)
    assert unit.error([t + d for t, d in zip(unit.truth, (0.1, -0.1, 0.0), strict=True)]) == pytest.approx(np.log10(0.02 / 3))
    assert unit.error(unit.truth) == -6

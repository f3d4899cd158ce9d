"""Scores of rankings, beside values worked out by hand and those of scikit-learn."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from expunge.evaluation.measure import Broken, Evidence, Measure, Missing
from expunge.evaluation.metrics import recommendation as metric
from expunge.evaluation.observation import Observation, SetObservation


def observed(user: list[str], item: list[str], ranks: list[int]) -> SetObservation:
    ids = tuple(f"{u}-{i}-{k}" for k, (u, i) in enumerate(zip(user, item, strict=True)))
    return SetObservation(ids, tuple(user), tuple(item), {}, ranks=np.array(ranks))


def test_values_by_hand() -> None:
    places = np.array([0.0, 3.0, 11.0])  # the first, the fourth and the twelfth item
    assert metric.recall_at(5, places) == pytest.approx(2 / 3)
    assert metric.precision_at(5, places) == pytest.approx(2 / 5)
    assert metric.average_precision_at(5, places) == pytest.approx((1 / 1 + 2 / 4) / 3)
    assert metric.ndcg_at(5, places) == pytest.approx((1 + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / log2(4)))


def test_the_ideal_is_truncated_at_k() -> None:
    places = np.arange(8.0)
    assert metric.ndcg_at(5, places) == 1
    assert metric.average_precision_at(5, places) == 1
    whole = metric.ndcg_at(5, places, whole=True)
    assert whole == pytest.approx(sum(1 / log2(r + 2) for r in range(5)) / sum(1 / log2(r + 2) for r in range(8)))


def test_ndcg_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for relevant in (1, 4, 30):
        scores = rng.normal(size=(1, 50))
        truth = np.zeros((1, 50))
        truth[0, rng.choice(50, relevant, replace=False)] = 1
        places = np.argsort(np.argsort(-scores[0]))[truth[0] == 1].astype(float)
        assert metric.ndcg_at(10, places) == pytest.approx(ndcg_score(truth, scores, k=10))


def test_users_count_alike_and_repeated_items_once() -> None:
    rows = observed(["a", "a", "a", "b"], ["x", "y", "y", "z"], [0, 30, 30, 2])
    assert metric.per_user("recall", "@20", rows).tolist() == [0.5, 1.0]
    assert metric.per_user("precision", "@5", rows).tolist() == [0.2, 0.2]


def test_scores_of_an_audit() -> None:
    forget, holdout = observed(["a"], ["x"], [15]), observed(["b", "c"], ["x", "x"], [0, 99])
    evidence = Evidence(Observation({"forget": forget, "holdout": holdout}), variants={"*": "@10"})
    scores = metric.scores(evidence)
    values = {n: (m.value(), m.variant) for n, m in scores.items() if isinstance(m, Measure)}
    assert values["forget_recall"] == (0.0, "@10")
    assert values["test_recall"] == (0.5, "@10")
    assert isinstance(scores["retain_recall"], Missing)
    with_test = Evidence(Observation({"forget": forget, "holdout": holdout, "test": observed(["d"], ["x"], [1])}))
    assert metric.scores(with_test)["test_recall"].value() == 1, "a set of this name counts"  # type: ignore[union-attr]


def test_a_broken_model_is_no_zero() -> None:
    with pytest.raises(Broken):
        metric.per_user("recall", "@20", observed(["a"], ["x"], [-1]))

"""Scores and probes of recommenders that read vectors, beside values worked out by hand and on a small world."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import tastes
from expunge.evaluation import representations as names
from expunge.evaluation.attacks import attribute_inference, mio, neighbor_recovery
from expunge.evaluation.measure import Broken, Evidence, Measure, Missing, Scores
from expunge.evaluation.metrics import exposure, group_fairness, label_auc, recommendation, recommendation_gap
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.observation_spec import QUICK
from expunge.evaluation.observe import observe

NAN = float("nan")


def rows(pairs: list[tuple[str, str]], ranks: list[int] | None = None, **features: Any) -> SetObservation:
    users, items = zip(*pairs, strict=True)
    arrays = {n: np.array(x, np.float32).reshape(len(pairs), -1) for n, x in features.items()}
    placed = np.array(ranks if ranks is not None else [0] * len(pairs))
    return SetObservation(tuple(f"{u}-{i}" for u, i in pairs), users, items, {}, ranks=placed, features=arrays)


def value(scores: Scores, name: str) -> float:
    score = scores[name]
    assert isinstance(score, Measure), score
    return score.value()


# By hand


def test_exposure_counts_each_removed_item_once() -> None:
    forget = rows(
        [("a", "x"), ("b", "x"), ("a", "y"), ("a", "z")],
        exposed=[[0, 30, NAN], [0, 30, NAN], [4, 6, 7], [NAN, NAN, NAN]],
        alike=[[1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]],
    )
    evidence = Evidence(Observation({"forget": forget}), variants={"*": "@5"})
    scores = exposure.scores(evidence)
    assert value(scores, "exposure") == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert value(scores, "exposure_alike") == pytest.approx((1 + 0) / 2)


def test_exposure_needs_an_item_that_is_removed_altogether() -> None:
    forget = rows([("a", "x")], exposed=[[NAN, NAN]], alike=[[1, 0]])
    missing = exposure.scores(Evidence(Observation({"forget": forget})))["exposure"]
    assert "no item is removed altogether" in str(missing)
    assert isinstance(exposure.scores(Evidence(Observation({"forget": rows([("a", "x")])})))["exposure"], Missing)


def test_fairness_is_the_gap_between_active_and_other_users() -> None:
    test = rows([("a", "x"), ("b", "x"), ("b", "y"), ("c", "x")], [0, 1, 50, 99], active=[1, 0, 0, 0])
    scores = group_fairness.scores(Evidence(Observation({"test": test})))
    b = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    assert value(scores, "active_ndcg") == pytest.approx(1)
    assert value(scores, "inactive_ndcg") == pytest.approx((b + 0) / 2)
    assert value(scores, "a_igf") == pytest.approx(1 - b / 2)
    alone = group_fairness.scores(Evidence(Observation({"test": rows([("a", "x")], [0], active=[1])})))
    assert "none of the users is inactive" in str(alone["a_igf"])


def test_gaps_are_those_of_means_over_users() -> None:
    pairs = [("a", "x"), ("a", "y"), ("b", "x")]
    own, other = rows(pairs, [0, 90, 90]), rows(pairs, [0, 1, 90])
    forget = recommendation_gap.scores(Evidence(Observation({"forget": own}), Observation({"forget": other})))
    recalls = [np.mean(recommendation.per_user("recall", "@20", o)) for o in (own, other)]
    assert value(forget, "forget_gap") == pytest.approx(abs(recalls[0] - recalls[1])) == pytest.approx(0.25)
    assert isinstance(forget["recommendation_gap"], Missing)
    both = {"forget": own, "retain": own, "holdout": own}
    whole = recommendation_gap.scores(Evidence(Observation(both), Observation({**both, "retain": other})))
    assert value(whole, "recommendation_gap") == pytest.approx(0.25 / 3)


def test_a_gap_has_two_directions() -> None:
    pairs = [("a", "x"), ("b", "x")]
    low, high = rows(pairs, [90, 90]), rows(pairs, [0, 90])
    for own, other in ((low, high), (high, low)):
        scores = recommendation_gap.scores(Evidence(Observation({"forget": own}), Observation({"forget": other})))
        assert value(scores, "forget_gap") == 0.5


def test_label_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    users, items = [f"u{k}" for k in range(12)], [f"i{k}" for k in range(12)]
    liked, disliked = rng.normal(1, 1, 12), rng.normal(0, 1, 12)
    sets = {n: rows(list(zip(users, items, strict=True)), score=x) for n, x in (("test", liked), ("disliked", disliked))}
    sets["forget"] = rows([("u0", "i1"), ("u2", "i0"), ("u3", "i3")], score=[0, 0, 0])
    scores = label_auc.scores(Evidence(Observation(sets)))

    def auc(at: list[int]) -> float:
        return float(roc_auc_score([1] * len(at) + [0] * len(at), [*liked[at], *disliked[at]]))

    assert value(scores, "label_auc") == pytest.approx(auc(list(range(12))))
    assert value(scores, "label_auc_or") == pytest.approx(auc([0, 1, 2, 3]))
    assert value(scores, "label_auc_and") == pytest.approx(auc([0, 3]))
    assert label_auc.scores(Evidence(Observation({"forget": sets["forget"]}))) == {}, "nobody asked for it"
    assert "no test set" in str(label_auc.scores(Evidence(Observation({n: sets[n] for n in ("forget", "disliked")})))["label_auc"])


def test_recovery_by_neighbors_is_a_mean_over_users() -> None:
    forget = rows([("a", "x"), ("a", "y"), ("b", "x"), ("c", "x")], neighbor=[0, 40, 3, NAN])
    scores = neighbor_recovery.scores(Evidence(Observation({"forget": forget})))
    assert value(scores, "neighbor_recovery") == pytest.approx((0.5 + 1) / 2)


def test_attributes_follow_from_vectors_of_other_users() -> None:
    known = [(f"k{k}", "x") for k in range(8)]
    retain = rows(known, user=[[k % 2, 0.1 * k] for k in range(8)], attribute=[k % 2 for k in range(8)])
    forget = rows([("a", "x"), ("a", "y"), ("b", "x")], user=[[0, 0], [0, 0], [0, 0.3]], attribute=[0, 0, 1])
    scores = attribute_inference.scores(Evidence(Observation({"forget": forget, "retain": retain})))
    assert value(scores, "attribute_inference") == 0.5, "a is inferred, b is not, and a counts once"
    same = rows(known, user=[[0, 0]] * 8, attribute=[1] * 8)
    missing = attribute_inference.scores(Evidence(Observation({"forget": forget, "retain": same})))
    assert "no two attributes are known" in str(missing["attribute_inference"])


def test_the_oracle_reads_score_vectors_and_products() -> None:
    one = rows([("a", "x")], score=[7], user=[[1, 2]], item=[[3, 4]])
    assert mio.described(one).tolist() == [[7, 1, 2, 3, 4, 3, 8]]


def test_the_oracle_never_learns_from_the_pairs_that_it_is_asked_about() -> None:
    rng = np.random.default_rng(0)

    def drawn(name: str, count: int) -> SetObservation:
        x = rng.normal(size=(count, 2))
        return rows([(f"{name}{k}", "x") for k in range(count)], score=rng.normal(size=count), user=x, item=x[::-1])

    sets = {n: drawn(n, 40) for n in ("forget", "retain", "holdout")}
    scores = mio.scores(Evidence(Observation(sets), original=Observation(sets)))
    assert abs(value(scores, "mio") - 0.5) < 0.25, "members and others are drawn alike, so nothing can be learned"
    assert scores["mio"].n == 60, "forgotten pairs, and the half of the unseen ones that it did not learn from"  # type: ignore[union-attr]
    assert "no original model" in str(mio.scores(Evidence(Observation(sets)))["mio"])
    forget = sets["forget"].features
    part = {n: replace(x, features={k: np.where(np.arange(40)[:, None] < 30, v, NAN) for k, v in forget.items()}) for n, x in sets.items()}
    scores = mio.scores(Evidence(Observation({**sets, "forget": part["forget"]}), original=Observation(sets)))
    assert scores["mio"].n == 50, "rows beyond those whose vectors are observed do not count"  # type: ignore[union-attr]


def test_infinite_vectors_are_a_broken_model() -> None:
    with pytest.raises(Broken):
        names.observed(rows([("a", "x")], user=[[np.inf]]), names.USER)


# On a small world


@functools.cache
def world(split: str = "user") -> tuple[tastes.Tasted, Mapping[str, Observation]]:
    """The world of tastes and its original and retrained model, observed; each row names the taste of its user."""
    tasted = tastes.world(split=split)
    forget = tasted.records["forget"]
    unseen = tasted.records["test"]
    strange = sorted({i for r in unseen if (i := r["item"])})
    had = {(r["user"], r["item"]) for part in tasted.records.values() for r in part}
    holdout = [{"user": u, "item": i} for u in sorted({r["user"] for r in forget}) for i in strange if (u, i) not in had][::3]
    sets = {**tasted.records, "holdout": holdout}
    named = {n: [{**r, "taste": str(r["user"])[:5]} for r in some] for n, some in sets.items()}
    return tasted, {n: observe(tasted.model(n), tasted.modality, named) for n in ("original", "retrained")}


@pytest.mark.slow
@pytest.mark.parametrize("family", [mio, attribute_inference, neighbor_recovery])
def test_probes_find_forgotten_users_in_the_original_alone(family: Any) -> None:
    _, models = world()
    (name,) = family.SCORES
    evidence = {n: Evidence(m, models["retrained"], models["original"], variants={"*": "@10"}) for n, m in models.items()}
    original, retrained = (value(family.scores(evidence[n]), name) for n in ("original", "retrained"))
    assert original > retrained + 0.15
    if family is attribute_inference:
        assert original == 1
        assert models["original"].about[names.ATTRIBUTE] == "taste"


@pytest.mark.slow
def test_removed_items_are_exposed_by_the_original_alone() -> None:
    _, models = world("item")
    scores = {n: exposure.scores(Evidence(m, variants={"*": "@10"})) for n, m in models.items()}
    assert value(scores["original"], "exposure") > value(scores["retrained"], "exposure") + 0.05


def test_scores_under_attack_need_no_vectors() -> None:
    tasted, _ = world()
    observation = observe(tasted.model(), tasted.modality, {"forget": tasted.records["forget"]}, wants=QUICK)
    assert observation.sets["forget"].ranks is not None
    assert not observation.sets["forget"].features
    assert "no vectors of users and items were observed" in str(neighbor_recovery.scores(Evidence(observation))["neighbor_recovery"])

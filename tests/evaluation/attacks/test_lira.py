"""LiRA against normals whose areas are known, by hand, and on models that learned noise by heart."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_curve

import toys
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.evaluation.attacks import lira

MODALITY = toys.modality(3)


def test_by_hand() -> None:
    margin = np.array([[1.0], [3.0], [0.0], [-2.0], [2.0]])
    chosen = np.array([[1], [1], [0], [0], [0]], bool)
    members, others = lira.fit(margin, chosen), lira.fit(margin, ~chosen)
    assert (members.mean[0], members.std[0]) == (2, pytest.approx(2**0.5))
    assert (others.mean[0], others.std[0]) == (0, 2)
    ratio = lira.log_ratio(np.array([2.0]), members, others)
    assert ratio == pytest.approx([np.log(2 / 2**0.5) + 0.5])
    assert lira.offline(np.array([2.0]), others) == pytest.approx([norm.cdf(1)])


def test_few_models_share_a_variance_and_many_have_one_an_item() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([0.5, 2.0])
    few, many = rng.normal(0, scale, (6, 2)), rng.normal(0, scale, (2000, 2))
    for margin in (few, many):
        shared = lira.fit(margin, np.ones(margin.shape, bool), few=10**6).std
        assert shared[0] == shared[1] == pytest.approx(np.sqrt(margin.var(0, ddof=1).mean()))
    assert lira.fit(few, np.ones(few.shape, bool)).std.std() == 0
    assert lira.fit(many, np.ones(many.shape, bool)).std == pytest.approx(scale, rel=0.1)
    assert lira.fit(np.zeros((5, 2)), np.ones((5, 2), bool)).std.tolist() == [1e-3, 1e-3]


def test_released_form_has_medians_and_one_deviation_of_all_margins_of_members() -> None:
    """As the authors' code with a fixed variance: the spread between items counts, and both normals have the deviation of members."""
    rng = np.random.default_rng(0)
    margin, members = rng.normal(np.array([0.0, 3, 6]), 1, (8, 3)), np.tile([[True], [False]], (4, 3))
    kinds = [margin[0::2], margin[1::2]]
    std = np.std(kinds[0])
    query = rng.normal(0, 3, 3)
    expected = norm.logpdf(query, np.median(kinds[0], 0), std) - norm.logpdf(query, np.median(kinds[1], 0), std)
    assert lira.log_ratio(query, *lira.normals(margin, members, ~members, form="released")) == pytest.approx(expected)
    pooled = lira.log_ratio(query, *lira.normals(margin, members, ~members))
    assert pooled == pytest.approx(lira.log_ratio(query, lira.fit(margin, members), lira.fit(margin, ~members)))
    assert pooled != pytest.approx(expected)
    left = lira.left_out(margin, members, ~members, form="released")[0]
    others = lira.normals(margin[1:], members[1:], ~members[1:], form="released")
    assert left == pytest.approx(lira.log_ratio(margin[0], *others))


def test_released_form_of_an_item_without_members_tells_nothing() -> None:
    margin, members = np.random.default_rng(0).normal(0, 1, (6, 2)), np.array([[1, 0]] * 3 + [[0, 0]] * 3, bool)
    member, other = lira.normals(margin, members, ~members, form="released")
    assert np.isnan(member.mean[1])
    assert np.isfinite(other.mean).all()


def test_best_accuracy_is_that_of_the_best_threshold_by_the_library() -> None:
    rng = np.random.default_rng(0)
    members, others = np.round(rng.normal(1, 1, 60), 1), np.round(rng.normal(0, 1, 40), 1)
    false_alarms, hit_rate, _ = roc_curve(np.repeat([1, 0], [60, 40]), np.concatenate([members, others]))
    scores = lira.summary(members, others)
    assert scores["best_accuracy"] == pytest.approx((1 - (false_alarms + 1 - hit_rate) / 2).max())
    assert scores["best_accuracy"] >= scores["balanced_accuracy"]
    assert lira.best_accuracy(np.zeros(3), np.ones(3)) == 0.5


@pytest.mark.parametrize("d", [0.0, 1.0, 2.0])
def test_the_area_of_two_normals(d: float) -> None:
    rng = np.random.default_rng(0)
    members, others = lira.Gaussian(np.array(d), np.array(1.0)), lira.Gaussian(np.array(0.0), np.array(1.0))
    log_ratios = [lira.log_ratio(rng.normal(mean, 1, 40_000), members, others) for mean in (d, 0.0)]
    scores = lira.summary(*log_ratios)
    assert scores["auc"] == pytest.approx(norm.cdf(d / 2**0.5), abs=0.01)
    assert scores["balanced_accuracy"] == pytest.approx(norm.cdf(d / 2), abs=0.01)
    assert scores["tpr_at_1%_fpr"] == pytest.approx(norm.sf(norm.isf(0.01) - d), abs=0.02)
    assert scores["tpr_at_0.1%_fpr"] <= scores["tpr_at_1%_fpr"]


def test_the_attacked_model_is_not_among_its_own_shadows() -> None:
    """A model that alone stands out would explain itself: left out, it is a stranger to both kinds."""
    rng = np.random.default_rng(0)
    margin, members = rng.normal(0, 1, (8, 3)), np.tile([[True], [False]], (4, 3))
    margin[0] = 50
    ratio = lira.left_out(margin, members, ~members)
    alone = lira.log_ratio(margin[0], lira.fit(margin[1:], members[1:]), lira.fit(margin[1:], ~members[1:]))
    assert ratio[0] == pytest.approx(alone)
    assert ratio[0] != pytest.approx(lira.log_ratio(margin[0], lira.fit(margin, members), lira.fit(margin, ~members)))
    assert ratio.shape == (8, 3)


def test_items_that_no_model_tells_of_do_not_count() -> None:
    margin, members = np.random.default_rng(0).normal(0, 1, (6, 2)), np.array([[1, 0]] * 3 + [[0, 0]] * 3, bool)
    ratio = lira.left_out(margin, members, ~members)
    assert np.isnan(ratio[:, 1]).all()
    assert np.isfinite(ratio[:, 0]).all()
    with pytest.raises(ValueError, match="train more"):
        lira.summary(ratio[:, 1], ratio[:, 0])


@pytest.mark.slow
def test_members_of_a_model_that_learned_noise_by_heart_are_found_and_those_of_a_retrained_one_are_not() -> None:
    forget, retain, holdout = (toys.noise(25, MODALITY, seed, name, width=8) for seed, name in enumerate(("forget", "retain", "holdout")))
    plan, sets = toys.fresh(epochs=60, batch_size=25), {"forget": forget, "retain": retain, "holdout": holdout}
    scores = {}
    for name, rows in (("original", forget.concat(retain)), ("retrained", retain)):
        model = toys.mlp(3, hidden=32, width=8)
        loop.run(plan, model, MODALITY, {"retain": rows.rename("retain")}, seed=1)
        scores[name] = lira.attack(model, MODALITY, sets, plan, shadows=16)
    assert scores["original"]["balanced_accuracy"] > 0.8
    assert scores["original"]["auc"] > 0.9
    assert scores["retrained"]["auc"] == pytest.approx(0.5, abs=0.2)


def test_what_is_refused() -> None:
    sets = {n: toys.noise(4, MODALITY, k, n) for k, n in enumerate(("forget", "holdout"))}
    with pytest.raises(UserError, match="at least one model"):
        lira.attack(toys.mlp(3), MODALITY, sets, toys.fresh(epochs=1), shadows=0)
    with pytest.raises(ValueError, match="train more"):
        lira.attack(toys.mlp(3), MODALITY, sets, toys.fresh(epochs=1), shadows=1)

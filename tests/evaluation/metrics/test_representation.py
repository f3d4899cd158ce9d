"""Representations: similarity and neighbors against values by hand and the library's own, and the case that they are there for: a model
whose last layer alone was changed looks forgotten by its answers, and not by its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import worlds
from classified import digits as records
from classified import observed, sure, turned
from expunge.evaluation import audited_models
from expunge.evaluation.measure import BROKEN, Evidence, Measure, Missing
from expunge.evaluation.metrics import representation
from expunge.evaluation.metrics.representation import linear_cka, nearest_label
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import observe
from expunge.evaluation.scoring import audit_scores
from expunge.evaluation.thresholds import Thresholds
from expunge.evaluation.verdict import Context
from expunge.report.verdict_data import Verdict

SHARES = ("agl", "agr", "h_lr", "cka_retrained")


def drawn(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def value(evidence: Evidence, name: str) -> float:
    measure = representation.scores(evidence)[name]
    assert isinstance(measure, Measure), measure
    return measure.value()


def missing(evidence: Evidence, name: str) -> str:
    measure = representation.scores(evidence)[name]
    assert isinstance(measure, Missing)
    return str(measure)


# Linear CKA


def test_cka_by_hand() -> None:
    one = np.array([[1.0], [-1.0]])
    assert linear_cka(one, one) == pytest.approx(1)
    assert linear_cka(np.array([[1.0], [-1], [0], [0]]), np.array([[0.0], [0], [1], [-1]])) == 0


def test_cka_does_not_see_rotation_scale_and_shift() -> None:
    x = drawn(40, 6)
    turn, _ = np.linalg.qr(drawn(6, 6, seed=1))
    assert linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, x * np.arange(1, 7)) < 0.999  # stretching is seen


def test_independent_features_have_a_floor_above_0() -> None:
    rows, width = 512, 64
    assert linear_cka(drawn(rows, width), drawn(rows, width, seed=1)) == pytest.approx(width / (rows + width), abs=0.01)


@pytest.mark.parametrize(("rows", "widths"), [(10, (30, 20)), (50, (8, 4)), (12, (20, 5))], ids=str)
def test_cka_is_the_ratio_of_gram_matrices(rows: int, widths: tuple[int, int]) -> None:
    x, y = drawn(rows, widths[0]), drawn(rows, widths[1], seed=1) + drawn(rows, widths[0])[:, : widths[1]]
    centre = np.eye(rows) - 1 / rows
    k, m = (centre @ (z @ z.T) @ centre for z in (x, y))
    assert linear_cka(x, y) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()), abs=1e-9)


@pytest.mark.parametrize("rows", [1, 7])
def test_features_that_do_not_vary_are_like_nothing(rows: int) -> None:
    still = np.full((rows, 3), 0.1)  # whose mean is not quite 0.1
    assert np.isnan(linear_cka(still, drawn(rows, 3)))


# Neighbours


def test_neighbours_vote_as_in_the_library() -> None:
    known, queries, labels = drawn(60, 4), drawn(200, 4, seed=1), np.arange(60) % 3
    theirs = KNeighborsClassifier(5, metric="cosine").fit(known, labels).predict(queries)
    assert nearest_label(known, labels, queries).tolist() == theirs.tolist()


def test_of_equal_votes_the_smallest_class_is_said() -> None:
    known = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert nearest_label(known, np.array([2, 2, 1, 1]), np.array([[1.0, 0.0], [0.0, 1.0]]), k=2).tolist() == [2, 1]
    assert nearest_label(known, np.array([2, 2, 1, 1]), np.array([[1.0, 0.0]]), k=4).tolist() == [1]


# Scores, on features written down: three classes stand apart, and class 2 is to be forgotten


def features(label: list[int], spread: float = 0.1, seed: int = 0) -> np.ndarray:
    return np.eye(3)[label] + np.random.default_rng(seed).normal(size=(len(label), 3)) * spread


SIZES = {"forget": [2] * 8, "retain": [0, 1] * 8, "holdout": [0, 1, 2] * 4}


def a_model(knows: bool, inside: bool | None = None, seed: int = 0) -> Observation:
    """A model that tells all three classes apart, or takes class 2 for class 1; inside: whether its features tell them apart, if these are
    unlike its answers.
    """
    inside = knows if inside is None else inside
    sets = {}
    for name, label in SIZES.items():
        predictions, felt = ([y if how else min(y, 1) for y in label] for how in (knows, inside))
        sets[name] = sure(label, predictions, name, features=features(felt, seed=seed))
    return observed(**sets)


def test_a_head_that_no_longer_names_a_class_is_seen_through() -> None:
    original, retrained, hidden = a_model(knows=True), a_model(knows=False, seed=1), a_model(knows=False, inside=True)
    scores = {n: value(Evidence(hidden, retrained, original), n) for n in ("cka_original", "knn_forget", "agl", "agr", "h_lr")}
    assert scores["cka_original"] == pytest.approx(1, abs=1e-12)
    assert scores["knn_forget"] == value(Evidence(original, retrained), "knn_forget") == 1
    assert value(Evidence(retrained, retrained), "knn_forget") == 0.5  # where classes lie upon each other, a coin is tossed
    assert scores["agl"] == 1
    assert scores["agr"] < 0.7
    assert scores["h_lr"] == pytest.approx(2 * scores["agr"] / (1 + scores["agr"]))


def test_unified_scores_by_hand() -> None:
    retrained = a_model(knows=False)
    half = replace(
        retrained,
        sets={
            **retrained.sets,
            "forget": sure(SIZES["forget"], [2] * 4 + [1] * 4, "forget", features=retrained.sets["forget"].features["head"]),
            "retain": sure(SIZES["retain"], [0, 0] + [0, 1] * 7, "retain", features=retrained.sets["retain"].features["head"]),
        },
    )
    evidence = Evidence(half, retrained)
    assert value(evidence, "agl") == pytest.approx((1 - 4 / 8) * (1 - 1 / 16))
    assert value(evidence, "agr") == pytest.approx(1)
    assert value(evidence, "h_lr") == pytest.approx(2 * 0.46875 / 1.46875)


def test_the_retrained_model_against_itself_is_1() -> None:
    retrained = a_model(knows=False)
    assert [value(Evidence(retrained, retrained), n) for n in SHARES] == pytest.approx([1] * 4)


def test_items_are_compared_whatever_their_order_and_the_width_of_the_other_model() -> None:
    unlearned, retrained = a_model(knows=True), a_model(knows=False, seed=1)
    back = observed(**{n: turned(s) for n, s in retrained.sets.items()})
    for name in SHARES:
        assert value(Evidence(unlearned, back), name) == pytest.approx(value(Evidence(unlearned, retrained), name))
    wide = {n: replace(s, features={"head": np.hstack([s.features["head"], s.features["head"]])}) for n, s in retrained.sets.items()}
    assert value(Evidence(unlearned, observed(**wide)), "cka_retrained") == pytest.approx(
        value(Evidence(unlearned, retrained), "cka_retrained")
    )


def test_dead_features_do_not_pass_for_neighbours_of_what_is_forgotten() -> None:
    dead = {n: replace(s, features={"head": np.zeros_like(s.features["head"])}) for n, s in a_model(knows=True).sets.items()}
    assert value(Evidence(observed(**dead)), "knn_forget") == 0


def test_one_item_to_forget_leaves_the_accuracies() -> None:
    def one(model: Observation) -> Observation:
        return observed(**{**model.sets, "forget": sure([2], [1], "forget", features=features([1]))})

    evidence = Evidence(one(a_model(knows=False)), one(a_model(knows=False, seed=1)))
    assert missing(evidence, "agr") == missing(evidence, "cka_retrained")
    assert missing(evidence, "cka_retrained") == "forget: the features of the items do not vary, so there is nothing to compare"
    assert value(evidence, "agl") == 1


def test_few_items_still_have_an_interval() -> None:
    two = observed(**{**a_model(knows=False).sets, "forget": sure([2, 2], [1, 1], "forget", features=features([1, 1]))})
    low, high = representation.scores(Evidence(two, two))["cka_retrained"].interval(50)  # type: ignore[union-attr]
    assert low == high == pytest.approx(1)  # draws of one item twice have no value


def test_what_is_missing_and_what_is_broken_is_said() -> None:
    model = a_model(knows=True)
    some = {n: observed(**{k: s for k, s in model.sets.items() if k != n}) for n in model.sets}
    assert missing(Evidence(some["holdout"]), "knn_forget") == "the audit has no holdout set"
    assert missing(Evidence(some["retain"]), "knn_retain") == (
        "holdout: neighbors are looked for among forgotten and retained items: give both sets"
    )
    assert missing(Evidence(model), "cka_original") == "no original model was given"
    assert missing(Evidence(model), "h_lr") == missing(Evidence(model), "cka_retrained") == "no retrained model was given"
    assert missing(Evidence(model, some["forget"]), "cka_retrained") == "the retrained model was not asked about forget"
    bare = observed(**{n: replace(s, features={}) for n, s in model.sets.items()})
    assert missing(Evidence(bare), "knn_forget") == "holdout: no features were observed"
    assert value(Evidence(bare, model), "agl") == 1
    broken = observed(**{n: replace(s, features={"head": s.features["head"] * np.nan}) for n, s in model.sets.items()})
    assert missing(Evidence(broken, model), "cka_retrained") == f"forget: features are not finite; {BROKEN}"
    assert missing(Evidence(broken), "knn_forget") == f"holdout: features are not finite; {BROKEN}"
    assert missing(Evidence(model, broken), "cka_retrained") == "forget, of the retrained model: features are not finite"


# In a world of real digits, the threes to be forgotten


@pytest.fixture(scope="module")
def observations(digits: worlds.World) -> Mapping[str, Observation]:
    """The world's three models, and the original with a last layer that never says three."""
    models = {n: digits.model(n) for n in ("original", "retrained", "random")}
    models["head"] = digits.model()
    with torch.no_grad():
        models["head"].get_submodule(digits.modality.head(models["head"])).bias[3] = -100.0  # type: ignore[index, operator]
    return {n: observe(m, digits.modality, records()) for n, m in models.items()}


def judged(observations: Mapping[str, Observation], name: str) -> tuple[dict, dict]:
    return audit_scores(
        Evidence(observations[name], observations["retrained"], observations["original"], observations["random"]), resamples=20
    )


def verdict_on(observations: Mapping[str, Observation], name: str) -> Verdict:
    beside = (observations[n] for n in ("retrained", "original", "random"))
    verdict = audited_models.judged(observations[name], name, "method", *beside).judge(Context(), Thresholds()).verdict
    assert verdict is not None
    return verdict


@pytest.mark.slow
def test_a_changed_head_is_flagged_on_digits(observations: Mapping[str, Observation]) -> None:
    (scores, skipped), (first, _) = judged(observations, "head"), judged(observations, "original")
    assert not skipped
    assert scores["forget_accuracy"]["value"] == 0
    assert scores["cka_original"]["value"] == pytest.approx(1, abs=1e-12)
    assert scores["knn_forget"]["value"] == first["knn_forget"]["value"] > scores["knn_forget"]["retrained"]
    assert scores["agl"]["value"] > 0.7
    assert scores["agr"]["value"] == first["agr"]["value"] < 0.5
    verdict = verdict_on(observations, "head")
    features = {c.name: c for c in verdict.checks if c.score in ("knn_forget", "cka_original")}
    assert {c.decides for c in features.values()} == {False}
    assert features["cka_original"].state == "not removed"
    assert "Other scores show traces, which do not decide:" in " ".join(verdict.notes)


def test_retraining_passes_and_random_weights_are_like_nothing(observations: Mapping[str, Observation]) -> None:
    retrained, _ = judged(observations, "retrained")
    assert [retrained[n]["value"] for n in SHARES] == pytest.approx([1] * 4)
    verdict = verdict_on(observations, "retrained")
    assert not [c for c in verdict.checks if c.state == "not removed"]
    assert verdict.damage == []
    random_init, _ = judged(observations, "random")
    assert random_init["agr"]["value"] < 0.5
    assert random_init["h_lr"]["value"] < 0.4
    assert random_init["zrf"]["value"] == pytest.approx(1)

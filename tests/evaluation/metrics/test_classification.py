"""Scores of classifiers: values worked out by hand, limits, and what is said where something is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from classified import a_set, observed, sure, turned
from expunge.evaluation.measure import BROKEN, Evidence, Measure, Missing
from expunge.evaluation.metrics import classification
from expunge.evaluation.metrics.classification import confidence, entropy, gone, hits, jensen_shannon, swapped_jensen_shannon
from expunge.evaluation.observation import Observation

P = [[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0]]


def value(evidence: Evidence, name: str) -> float:
    measure = classification.scores(evidence)[name]
    assert isinstance(measure, Measure), measure
    return measure.value()


def missing(evidence: Evidence, name: str) -> str:
    measure = classification.scores(evidence)[name]
    assert isinstance(measure, Missing)
    return str(measure)


def a_model(forget: list[int], retain: list[int], holdout: list[int]) -> Observation:
    """What it calls two items to forget, all of class 2, four of classes 0 and 1 to keep, and four unseen ones, one of them of class 2."""
    return observed(
        forget=sure([2, 2], forget, "f"),
        retain=sure([0, 0, 1, 1], retain, "r"),
        holdout=sure([0, 1, 1, 2], holdout, "h"),
    )


def test_statistics_of_items_by_hand() -> None:
    observation = a_set(P, [0, 1, 1])
    assert hits(observation).tolist() == [1, 0, 0]  # of equals, the first class is what the model says
    assert confidence(observation) == pytest.approx([0.7, 1 / 3, 0])
    assert entropy(observation) == pytest.approx([0.801819, np.log(3), 0], abs=1e-6)


def test_jensen_shannon_by_hand_and_by_the_library() -> None:
    a, b = (np.log(np.random.default_rng(s).dirichlet(np.ones(5), 20)) for s in (0, 1))
    assert jensen_shannon(a, b) == pytest.approx(jensenshannon(np.exp(a), np.exp(b), axis=1) ** 2)
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert jensen_shannon(a, a) == pytest.approx(0, abs=1e-12)
    with np.errstate(divide="ignore"):
        apart = [np.log(np.array([[1.0, 0.0, 0.0]])), np.log(np.array([[0.0, 1.0, 0.0]]))]
    assert jensen_shannon(*apart) == pytest.approx(np.log(2))


def test_zrf_of_the_released_codes_by_torch() -> None:
    """`F.kl_div(log p, m)` with its default reduction: KL(m || p), averaged over items and classes."""
    p, q = (np.random.default_rng(s).dirichlet(np.ones(5), 20) for s in (0, 1))
    log_p, log_q, m = (torch.from_numpy(x) for x in (np.log(p), np.log(q), (p + q) / 2))
    kl = [torch.nn.functional.kl_div(x, m, reduction="none").mean() for x in (log_p, log_q)]
    expected = 1 - float(kl[0] + kl[1]) / 2
    assert 1 - swapped_jensen_shannon(np.log(p), np.log(q)).mean() == pytest.approx(expected)
    sets = [observed(forget=a_set(x.tolist(), [0] * 20, "f")) for x in (p, q)]
    evidence = Evidence(sets[0], random=sets[1])
    released = classification.scores(replace(evidence, variants={"zrf": "released"}))["zrf"]
    textbook = classification.scores(evidence)["zrf"]
    assert isinstance(released, Measure)
    assert isinstance(textbook, Measure)
    assert released.value() == pytest.approx(expected, abs=1e-6)
    assert textbook.value() == pytest.approx(1 - (jensenshannon(p, q, axis=1) ** 2).mean(), abs=1e-6)
    assert released.variant != textbook.variant


def test_a_class_is_gone_where_nothing_of_it_is_retained() -> None:
    whole = a_model([2, 2], [0, 0, 1, 1], [0, 1, 1, 2])
    assert gone(whole).tolist() == [2]
    some = observed(forget=sure([0, 2], [0, 2]), retain=sure([0, 1, 2], [0, 1, 2]))
    assert gone(some).tolist() == []
    assert gone(observed(forget=sure([2], [2]))).tolist() == []


def test_accuracies_by_hand() -> None:
    evidence = Evidence(a_model([2, 0], [0, 1, 1, 1], [0, 1, 0, 2]))
    assert value(evidence, "forget_accuracy") == 0.5
    assert value(evidence, "retain_accuracy") == 0.75
    assert value(evidence, "test_accuracy") == pytest.approx(2 / 3)  # the unseen item of the forgotten class does not count
    assert value(evidence, "test_forget_accuracy") == 1
    assert value(evidence, "model_utility") == value(evidence, "test_accuracy")
    assert value(evidence, "forget_confidence") == pytest.approx((0.9 + 0.05) / 2)


def test_where_some_items_of_each_class_are_forgotten_all_unseen_ones_count() -> None:
    some = observed(forget=sure([0, 1], [0, 1], "f"), retain=sure([0, 1], [0, 1], "r"), holdout=sure([0, 1], [0, 0], "h"))
    assert value(Evidence(some), "test_accuracy") == 0.5
    assert missing(Evidence(some), "test_forget_accuracy") == "holdout: no item is of a class that is forgotten altogether"


def test_average_gap_by_hand_and_of_the_retrained_model() -> None:
    unlearned, retrained = a_model([2, 0], [0, 1, 1, 1], [0, 1, 0, 2]), a_model([0, 0], [0, 0, 1, 1], [0, 1, 1, 0])
    assert value(Evidence(unlearned, retrained), "average_gap") == pytest.approx((0.5 + 0.25 + 1 / 3) / 3)
    assert value(Evidence(retrained, retrained), "average_gap") == 0
    assert missing(Evidence(unlearned), "average_gap") == "no retrained model was given"


def test_items_are_paired_by_what_they_are_not_by_place() -> None:
    unlearned = observed(forget=a_set(P, [0, 1, 2], "f"))
    other = observed(forget=turned(a_set(P, [0, 1, 2], "f")))
    assert value(Evidence(unlearned, random=other), "zrf") == pytest.approx(1)
    assert value(Evidence(unlearned, random=observed(forget=a_set(P[::-1], [0, 1, 2], "f"))), "zrf") < 0.9


def test_zrf_is_1_for_the_blank_model_itself_and_least_where_it_is_sure_of_something_else() -> None:
    random_init = observed(forget=a_set([[1.0, 0.0], [1.0, 0.0]], [0, 1], "f"))
    assert value(Evidence(random_init, random=random_init), "zrf") == pytest.approx(1)
    other = observed(forget=a_set([[0.0, 1.0], [0.0, 1.0]], [0, 1], "f"))
    assert value(Evidence(other, random=random_init), "zrf") == pytest.approx(1 - np.log(2))
    assert missing(Evidence(other), "zrf") == "no model with random weights was given"


@pytest.mark.parametrize("holdout", [None, sure([2, 2], [2, 0], "h")], ids=["nothing unseen", "unseen of the forgotten class alone"])
def test_utility_falls_back_on_what_is_retained(holdout: object) -> None:
    unlearned = a_model([0, 0], [0, 0, 0, 1], [0, 1, 1, 2])
    sets = {n: s for n, s in unlearned.sets.items() if n != "holdout"} | ({"holdout": holdout} if holdout else {})
    measure = classification.scores(Evidence(replace(unlearned, sets=sets)))["model_utility"]
    assert isinstance(measure, Measure)
    assert (measure.value(), measure.variant) == (0.75, "accuracy on retained items")


def test_a_masked_class_is_no_broken_model_and_nothing_warns() -> None:
    masked = observed(forget=a_set([[1.0, 0.0], [0.5, 0.5]], [1, 1], "f"))
    evidence = Evidence(masked, random=masked)
    assert value(evidence, "forget_accuracy") == 0
    assert value(evidence, "forget_confidence") == pytest.approx(0.25)
    assert value(evidence, "zrf") == pytest.approx(1)


def test_what_is_missing_and_what_is_broken_is_said() -> None:
    assert missing(Evidence(observed()), "forget_accuracy") == "the audit has no forget set"
    words = observed(forget=replace(sure([0], [0]), log_probs=None))
    assert missing(Evidence(words), "forget_accuracy") == "forget: no distributions over classes were observed"
    broken = observed(forget=a_set([[np.nan, np.nan]], [0]))
    assert missing(Evidence(broken), "forget_accuracy") == f"forget: log-probabilities are not finite; {BROKEN}"

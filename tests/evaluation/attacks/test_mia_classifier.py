"""Membership inference on classifiers: values by hand, the library's machines as oracles, and the direction in which each score moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from classified import a_set, observed, sure
from expunge.evaluation.attacks import mia_classifier
from expunge.evaluation.attacks.mia_classifier import above_threshold, by_entropy, cross_validated, efficacy, loss, modified_entropy
from expunge.evaluation.measure import BROKEN, Evidence, Measure, Missing
from expunge.evaluation.observation import Observation, SetObservation

NAMES = ("mia_loss", "mia_efficacy", "mia_entropy", "mia_cv", "mia_threshold")


def values(evidence: Evidence) -> dict[str, float]:
    scores = mia_classifier.scores(evidence)
    return {n: m.value() for n in NAMES if isinstance(m := scores[n], Measure)}


def missing(evidence: Evidence, name: str) -> str:
    measure = mia_classifier.scores(evidence)[name]
    assert isinstance(measure, Missing)
    return str(measure)


# Statistics of an item


def test_modified_entropy_by_hand() -> None:
    p = [0.7, 0.2, 0.1]
    assert modified_entropy(a_set([p], [0])) == pytest.approx(0.3 * 0.3567 + 0.2 * 0.2231 + 0.1 * 0.1054, abs=1e-4)
    assert modified_entropy(a_set([p], [2])) == pytest.approx(0.9 * 2.302585 + 0.7 * 1.203973 + 0.2 * 0.223144, abs=1e-4)


def test_modified_entropy_is_0_where_the_true_class_is_certain_and_large_where_another_one_is() -> None:
    certain = modified_entropy(a_set([[1 - 1e-7, 1e-7], [1.0, 0.0]], [0, 0]))
    assert certain == pytest.approx(0, abs=1e-5)
    wrong = modified_entropy(a_set([[1.0, 0.0]], [1]))
    assert wrong == pytest.approx(-np.log(1e-30) * 2)  # both logarithms are clipped


def test_loss_by_hand() -> None:
    assert loss(a_set([[0.25, 0.75], [1.0, 0.0]], [0, 0])) == pytest.approx([np.log(4), 0])


# Attacks, each on its own


def gaps(seed: int, shift: float, size: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, size)


def test_a_kernel_machine_calls_what_is_as_sure_as_members_seen() -> None:
    members, others = np.linspace(0.9, 1, 40), np.linspace(0.2, 0.5, 40)
    assert efficacy(members, others, np.array([0.95, 0.3, 0.91, 0.25])).tolist() == [0, 1, 0, 1]
    machine = SVC(C=3, gamma="auto").fit(np.concatenate([members, others])[:, None], [1] * 40 + [0] * 40)
    queries = np.linspace(0, 1, 101)
    assert efficacy(members, others, queries).tolist() == (machine.predict(queries[:, None]) == 0).tolist()


def test_members_are_drawn_not_the_first_ones() -> None:
    """Sorted by class, the first members would be one class, here the sure one."""
    members = np.concatenate([np.full(50, 0.99), np.full(450, 0.55)])
    others = np.full(50, 0.2)
    assert efficacy(members, others, np.array([0.55])).tolist() == [0]
    assert efficacy(members, others, np.array([0.55]), seed=1).tolist() == [0]


def test_entropy_accuses_the_low_side_however_few_others_there_are() -> None:
    members, others = np.linspace(0, 0.3, 300), np.linspace(1, 2, 20)
    assert by_entropy(members, others, np.array([0.1, 0.2, 1.2, 1.9])).tolist() == [1, 1, 0, 0]


def test_entropy_by_a_kernel_machine_as_in_the_code_of_the_other_paper() -> None:
    """SVC(C=3, gamma="auto", kernel="rbf") on all items, however many of each; the default is logistic regression of balanced weight."""
    rng = np.random.default_rng(0)
    distributions = {n: rng.dirichlet(np.full(4, c), k) for n, c, k in (("retain", 0.2, 90), ("holdout", 0.6, 40), ("forget", 0.4, 60))}
    sets = {n: a_set(p.tolist(), [0] * len(p), n) for n, p in distributions.items()}
    h = {n: scipy_entropy(np.exp(sets[n].log_probs.astype(np.float64)), axis=1)[:, None] for n in sets}
    x, y = np.concatenate([h["retain"], h["holdout"]]), np.repeat([1, 0], [90, 40])
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(x, y).predict(h["forget"]).mean()
    logistic = LogisticRegression(class_weight="balanced").fit(x, y).predict(h["forget"]).mean()
    assert machine != logistic
    evidence = Evidence(observed(**sets))
    assert values(evidence)["mia_entropy"] == pytest.approx(logistic)
    assert values(replace(evidence, variants={"mia_entropy": "svm"}))["mia_entropy"] == pytest.approx(machine)


def test_cross_validation_is_at_chance_on_likes_and_perfect_where_kinds_are_apart() -> None:
    alike = cross_validated(gaps(0, 0, 400), gaps(1, 0, 400))
    assert len(alike) == 10
    assert abs(alike.mean() - 0.5) < 2 * np.sqrt(0.25 / 80)  # 80 items are held out
    assert cross_validated(gaps(0, 0), gaps(1, 50, 90)).tolist() == [1] * 10
    with pytest.raises(Missing, match="needs 10 items of each kind, and there are 9"):
        cross_validated(gaps(0, 0, 9), gaps(1, 0))


def test_cross_validation_takes_as_many_of_both_and_infinite_losses() -> None:
    assert cross_validated(gaps(0, 0, 40), np.full(400, np.inf)).mean() == 1
    same = gaps(0, 0, 400)
    assert cross_validated(same[:40], same).mean() < 0.75  # all others by themselves would be 91 %


def test_the_threshold_is_the_best_there_is() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        members, others = (np.round(rng.normal(m, 1, rng.integers(5, 40)), 1) for m in (1, 0))
        queries = np.linspace(-3, 4, 71)
        reached = above_threshold(members, others, members).mean() - above_threshold(members, others, others).mean()
        best = max((members >= t).mean() - (others >= t).mean() for t in (*members, *others))
        assert reached == pytest.approx(best)
        assert (np.diff(above_threshold(members, others, queries)) >= 0).all()


# Scores of a model


def model(forget: SetObservation, retain: SetObservation, holdout: SetObservation) -> Observation:
    return observed(forget=forget, retain=retain, holdout=holdout)


def test_a_model_against_itself_has_an_area_of_one_half() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    same = model(*(a_set(p, [0, 1, 2] * 10, n) for n in "frh"))
    assert values(Evidence(same))["mia_loss"] == 0.5


def test_forgotten_items_stand_beside_unseen_ones_of_their_own_classes() -> None:
    forget = sure([2] * 10, [2] * 10, "f", p=0.6)
    holdout = sure([0] * 10 + [2] * 10, [0] * 10 + [2] * 10, "h", p=0.6)
    apart = replace(
        holdout, log_probs=np.where(np.arange(20)[:, None] < 10, np.log(np.array([0.99, 0.005, 0.005], np.float32)), holdout.log_probs)
    )
    scores = values(Evidence(observed(forget=forget, holdout=apart)))
    assert scores["mia_loss"] == 0.5  # with the easy class beside them it would be far below
    assert scores["mia_cv"] < 0.75


def test_each_class_has_a_threshold_of_its_own() -> None:
    """Class 0 is easy: its unseen items are surer than the members of class 1."""

    def mixed(easy: float, hard: float, name: str) -> SetObservation:
        return a_set([[easy, 1 - easy]] * 10 + [[1 - hard, hard]] * 10, [0] * 10 + [1] * 10, name)

    retain, holdout = mixed(0.99, 0.8, "r"), mixed(0.9, 0.6, "h")
    memorized = values(Evidence(model(mixed(0.99, 0.8, "f"), retain, holdout)))
    unseen = values(Evidence(model(mixed(0.9, 0.6, "f"), retain, holdout)))
    assert (memorized["mia_threshold"], unseen["mia_threshold"]) == (1, 0)


def test_a_class_without_members_takes_the_threshold_of_all() -> None:
    retain, holdout = sure([0, 1] * 10, [0, 1] * 10, "r"), sure([0, 1] * 10, [1, 0] * 10, "h")
    scores = values(Evidence(model(sure([2] * 4, [2, 2, 2, 0], "f"), retain, holdout)))
    assert scores["mia_threshold"] == 0.75


@pytest.fixture(scope="module")
def overfitted() -> Mapping[str, Observation]:
    """A network that learned 120 random labels by heart; half of them are to be forgotten. The other one never saw these."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(240, 10)), rng.integers(0, 3, 240)

    def learned(rows: slice) -> Observation:
        net = MLPClassifier((100,), solver="lbfgs", max_iter=400, random_state=0).fit(x[rows], y[rows])
        parts = {"forget": slice(0, 60), "retain": slice(60, 120), "holdout": slice(120, 240)}
        return observed(**{n: a_set(net.predict_proba(x[s]), y[s], n) for n, s in parts.items()})

    return {"original": learned(slice(0, 120)), "retrained": learned(slice(60, 120))}


def test_all_attacks_accuse_an_untouched_overfitted_model(overfitted: Mapping[str, Observation]) -> None:
    scores = values(Evidence(overfitted["original"]))
    assert scores["mia_efficacy"] < 0.1  # called unseen
    assert scores["mia_entropy"] > 0.9  # called members
    assert scores["mia_threshold"] > 0.9
    assert scores["mia_loss"] > 0.85
    assert scores["mia_cv"] > 0.75


def test_a_model_that_never_saw_them_is_the_yardstick(overfitted: Mapping[str, Observation]) -> None:
    first, again = (values(Evidence(overfitted[n])) for n in ("original", "retrained"))
    assert again["mia_efficacy"] > first["mia_efficacy"] + 0.3
    assert again["mia_entropy"] < first["mia_entropy"]
    assert again["mia_threshold"] < first["mia_threshold"] - 0.3
    assert abs(again["mia_loss"] - 0.5) < 0.12
    assert abs(again["mia_cv"] - 0.5) < 0.12


def test_attacks_are_repeatable(overfitted: Mapping[str, Observation]) -> None:
    assert values(Evidence(overfitted["original"])) == values(Evidence(overfitted["original"]))


def test_constant_outputs_are_attacked_without_a_warning() -> None:
    flat = model(*(a_set([[0.5, 0.5]] * 20, [0, 1] * 10, n) for n in "frh"))
    scores = values(Evidence(flat))
    assert scores["mia_loss"] == 0.5
    assert scores["mia_cv"] <= 0.5
    assert scores.keys() == set(NAMES)


def test_a_masked_class_is_attacked_without_a_warning() -> None:
    masked = a_set([[1.0, 0.0]] * 12, [1] * 12, "f")
    retain, holdout = (sure([0, 1] * 12, [0, 1] * 12, n, classes=2, p=p) for n, p in (("r", 0.95), ("h", 0.6)))
    scores = values(Evidence(model(masked, retain, holdout)))
    assert scores["mia_efficacy"] == 1  # trivially: a class that is never said is never sure
    assert scores["mia_loss"] == 0  # and gives itself away


def test_what_is_missing_is_said() -> None:
    sets = {n: sure([0, 1] * 10, [0, 1] * 10, n) for n in ("forget", "retain", "holdout")}
    lacking = {n: observed(**{k: s for k, s in sets.items() if k != n}) for n in sets}
    assert {missing(Evidence(lacking["forget"]), n) for n in NAMES} == {"the audit has no forget set"}
    assert {missing(Evidence(lacking["holdout"]), n) for n in NAMES} == {"the audit has no holdout set"}
    assert values(Evidence(lacking["retain"])).keys() == {"mia_loss", "mia_cv"}
    other = observed(**{**sets, "holdout": sure([2, 2], [2, 2], "h")})
    assert missing(Evidence(other), "mia_loss") == "holdout: no item is of a class of which items are forgotten"
    broken = observed(**{**sets, "forget": replace(sets["forget"], log_probs=sets["forget"].log_probs * np.nan)})  # type: ignore[operator]
    assert missing(Evidence(broken), "mia_loss") == f"forget: log-probabilities are not finite; {BROKEN}"

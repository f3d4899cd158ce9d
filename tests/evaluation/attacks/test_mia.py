"""Membership inference: per-item scores and areas worked out by hand, the library's area as oracle, and what is said of what is missing."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from expunge.evaluation.attacks import mia
from expunge.evaluation.measure import BROKEN, Evidence, Measure, Missing
from expunge.evaluation.observation import Observation, Scored, SetObservation

LOGP = (-0.1, -2.0, -0.3, -1.0, -0.6)


def a_set(logps, prefix: str = "", ended: bool = False, moments=None, text=None) -> SetObservation:
    """A set of one answer an item with the given log-probabilities."""
    flat = np.array([x for row in logps for x in row], np.float32)
    n = len(logps)
    text = tuple(text or (f"{prefix} answer {i}" for i in range(n)))
    mean, std = moments or (np.full(len(flat), -1, np.float32), np.full(len(flat), 0.5, np.float32))
    scored = Scored(np.arange(n), np.cumsum([0, *map(len, logps)]), flat, flat > -1, np.full(n, ended), text, mean, std)
    norms = np.abs(flat[: 2 * n : 2]) if len(flat) >= 2 * n else np.ones(n, np.float32)
    return SetObservation(tuple(f"{prefix}{i}" for i in range(n)), text, text, {"answer": scored}, gradient_norms=norms.astype(np.float32))


def evidence(rng, member_level: float = -1.0, n: int = 40) -> Observation:
    rows = lambda level: -np.abs(rng.normal(-level, 0.5, (n, 6)))  # noqa: E731
    return Observation({"forget": a_set(rows(member_level), "f"), "holdout": a_set(rows(-1.0), "h")})


def test_loss_and_min_k_by_hand():
    observation = a_set([LOGP])
    assert mia.loss(observation) == pytest.approx(0.8)
    assert mia.min_k(observation) == pytest.approx(1.5)
    assert mia.min_k(observation, share=1.0) == pytest.approx(mia.loss(observation))
    assert mia.min_k(observation, share=0.01) == pytest.approx(2.0)


def test_only_an_end_of_sequence_label_is_left_out():
    observation = a_set([(*LOGP, -9.0)], ended=True)
    assert mia.min_k(observation) == pytest.approx(1.5)
    assert mia.loss(observation) == pytest.approx((4.0 + 9.0) / 6)
    assert np.isnan(mia.min_k(a_set([(-9.0,)], ended=True))).all()


def moments(p) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log p under p, as an observation gives them."""
    logp = np.log(p)
    mean = (p * logp).sum()
    std = np.sqrt(max((p * logp**2).sum() - mean**2, 1e-6))
    return np.full(len(p), mean, np.float32), np.full(len(p), std, np.float32)


def test_min_k_plus_plus_by_hand():
    p = np.array([0.7, 0.2, 0.1])
    mean, std = moments(p)
    assert (mean[0], std[0]) == (pytest.approx(-0.801819, abs=1e-6), pytest.approx(0.703126, abs=1e-6))
    each = a_set([[x] for x in np.log(p)], moments=(mean, std))
    assert -mia.min_k_plus_plus(each) == pytest.approx([0.633092, -1.148612, -2.134419], abs=1e-5)
    uniform = np.full(4, 0.25)
    flat = a_set([[x] for x in np.log(uniform)], moments=moments(uniform))
    assert moments(uniform)[1] == pytest.approx(1e-3)
    assert mia.min_k_plus_plus(flat) == pytest.approx(0, abs=1e-4)


def test_min_k_plus_plus_is_standardised_under_every_distribution():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.dirichlet(np.ones(6))
        z = -mia.min_k_plus_plus(a_set([[x] for x in np.log(p)], moments=moments(p)))
        assert (p * z).sum() == pytest.approx(0, abs=1e-4)
        assert (p * z**2).sum() == pytest.approx(1, abs=1e-3)


def test_zlib_divides_by_compressed_bytes():
    observation = a_set([LOGP, LOGP], text=("hello world", "a" * 1000))
    assert [len(zlib.compress(t.encode())) for t in observation.answer] == [19, 17]
    assert mia.compressed_loss(observation) == pytest.approx([0.8 / 19, 0.8 / 17])


def test_auc_by_hand_and_ties_count_half():
    assert mia.auc(np.array([0.1, 0.2, 0.9]), np.array([0.5, 0.8, 1.0])) == pytest.approx(7 / 9)
    assert mia.auc(np.ones(3), np.ones(5)) == 0.5
    assert mia.auc(np.zeros(3), np.ones(5)) == 1


def test_auc_is_that_of_the_library_and_turns_with_the_sign():
    rng = np.random.default_rng(0)
    for digits in (1, 6):  # one digit makes many ties
        members, others = rng.normal(0, 1, 70).round(digits), rng.normal(0.5, 1, 50).round(digits)
        library = roc_auc_score([0] * 70 + [1] * 50, np.concatenate([members, others]))
        assert mia.auc(members, others) == pytest.approx(library, rel=1e-12)
        assert mia.auc(-members, -others) == pytest.approx(1 - library)


def test_tpr_at_fpr_by_hand():
    others = np.arange(100.0)
    members = np.array([-1.0, 0.5, 3.5, 4.5, 5.5, 50.0])
    assert mia.tpr_at_fpr(members, others, 0.01) == pytest.approx(2 / 6)
    assert mia.tpr_at_fpr(members, others, 0.05) == pytest.approx(4 / 6)
    assert mia.tpr_at_fpr(members, others, 0.0) == pytest.approx(1 / 6)
    assert mia.tpr_at_fpr(members, others, 1.0) == 1
    assert mia.tpr_at_fpr(np.array([28.5]), others, 0.29) == 1  # 0.29 * 100 is below 29 in floating point
    assert mia.tpr_at_fpr(np.zeros(4), np.zeros(100), 0.05) == 0  # a threshold that accuses all is no attack


def test_privleak_by_hand():
    assert mia.leak(0.9, 0.4) == pytest.approx(-83.3333, abs=1e-3)
    assert mia.leak(0.37, 0.37) == 0
    assert mia.leak(1.0, 0.5) == pytest.approx(-100)
    assert mia.leak(0.3, 0.5) > 0


def test_members_are_found_and_over_forgotten_items_too():
    rng = np.random.default_rng(0)
    known, alike, shunned = (mia.scores(Evidence(evidence(rng, level))) for level in (-0.1, -1.0, -4.0))
    for probe in ("mia_loss", "mia_min_k", "mia_min_k_plus_plus", "mia_zlib"):
        assert known[probe].value() > 0.9
        assert alike[probe].interval()[0] < 0.5 < alike[probe].interval()[1]
        assert shunned[probe].value() < 0.1
    assert known["privleak"].value() < -80 < 0 < 80 < shunned["privleak"].value()


def test_against_the_retrained_model():
    rng = np.random.default_rng(0)
    model, retrained = evidence(rng, -0.5), evidence(rng)
    got = mia.scores(Evidence(model, retrained))
    members, others = mia.item_scores(Evidence(model, retrained), "mia_reference")
    assert members == pytest.approx(mia.loss(model.sets["forget"]) - mia.loss(retrained.sets["forget"]))
    assert got["mia_reference"].value() == mia.auc(members, others) > 0.5
    aucs = [mia.auc(mia.min_k(x.sets["forget"]), mia.min_k(x.sets["holdout"])) for x in (model, retrained)]
    assert got["privleak"].value() == pytest.approx(100 * (aucs[1] - aucs[0]) / (1 - aucs[1] + 1e-10))
    itself = mia.scores(Evidence(retrained, retrained))
    assert (itself["privleak"].value(), itself["mia_reference"].value()) == (0, 0.5)
    assert "against the retrained model" in got["privleak"].variant
    assert "0.5" in mia.scores(Evidence(model))["privleak"].variant


def test_item_scores_are_what_the_areas_are_made_of():
    got = Evidence(evidence(np.random.default_rng(0)), evidence(np.random.default_rng(1)))
    for name, measure in mia.scores(got).items():
        low, high = measure.interval()
        assert low <= measure.value() <= high
        if name in mia.PROBES:
            members, others = mia.item_scores(got, name)
            assert measure.value() == mia.auc(members, others)
            assert measure.n == len(members) + len(others)
            assert (mia.SCORES[name].direction, mia.SCORES[name].ideal) == ("retrained", None)
        else:
            assert mia.SCORES[name].ideal == 0
        assert (mia.SCORES[name].kind, mia.SCORES[name].shows) == ("membership", False)


def test_what_is_missing_is_said():
    whole = evidence(np.random.default_rng(0))
    assert set(mia.scores(Evidence(whole))) == set(mia.SCORES) == set(mia.__doc__.split("Scores: ")[1].splitlines()[0].split(", "))
    alone = Observation({"forget": whole.sets["forget"]})
    assert all(str(lack) == "the audit has no holdout set" for name, lack in mia.scores(Evidence(alone)).items() if name != "mia_reference")
    assert str(mia.scores(Evidence(whole))["mia_reference"]) == "no retrained model was given"

    def without(gradient_norms=whole.sets["forget"].gradient_norms, **lost) -> dict[str, Measure | Missing]:
        cut = {
            n: replace(s, gradient_norms=gradient_norms, kinds={"answer": replace(s.kinds["answer"], **lost)})
            for n, s in whole.sets.items()
        }
        return mia.scores(Evidence(Observation(cut)))

    assert str(without(gradient_norms=None)["mia_gradnorm"]) == "forget: no gradient norms were observed"
    assert "moments" in str(without(mean=None, std=None)["mia_min_k_plus_plus"])
    assert "texts" in str(without(text=())["mia_zlib"])
    assert str(without(gradient_norms=np.full(40, np.nan, np.float32))["mia_gradnorm"]).endswith(BROKEN)


def test_members_are_no_controls_of_themselves():
    whole = evidence(np.random.default_rng(0))
    mixed = Observation({"forget": whole.sets["forget"], "holdout": replace(whole.sets["holdout"], ids=whole.sets["forget"].ids)})
    assert "40 items stand both in forget and in holdout" in str(mia.scores(Evidence(mixed))["mia_loss"])

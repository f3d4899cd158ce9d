"""TOFU scores: values worked out by hand, identities of the test statistics, and what is said where something is missing."""

from dataclasses import replace
from math import comb, exp

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import ks_2samp

from expunge.evaluation.measure import BROKEN, Evidence, Measure, Missing, item_mean
from expunge.evaluation.metrics import tofu
from expunge.evaluation.observation import Observation, Scored, SetObservation

ONE = np.zeros(1, np.int64)
COLLAPSED = {400: 1.06e-239, 200: 1.94e-119, 40: 1.86e-23}  # floors of the published tables, by items


def answers(logps, item=None) -> Scored:
    """Answers of the given per-token log-probabilities; by default one an item."""
    start = np.cumsum([0, *map(len, logps)])
    flat = np.array([x for row in logps for x in row], np.float32)
    item = np.arange(len(logps)) if item is None else np.asarray(item)
    return Scored(item, start, flat, flat > -0.5, np.zeros(len(logps), bool), tuple("x" for _ in logps))


def a_set(rng, n: int, name: str, wrong: int = 3, shift: float = 0.0) -> SetObservation:
    draw = lambda size, level: answers(rng.normal(level + shift, 0.2, (size, 4)))  # noqa: E731
    many = draw(n * wrong, -2.0)
    kinds = {"answer": draw(n, -1.0), "paraphrase": draw(n, -1.2), "perturbed": replace(many, item=np.repeat(np.arange(n), wrong))}
    words = tuple(f"{name} item number {i}" for i in range(n))
    return SetObservation(tuple(f"{name}-{i}" for i in range(n)), words, words, kinds, tuple(w.replace("number", "no") for w in words))


def observed(seed: int = 0, n: int = 12, sets=tuple(tofu.SETS), shift: float = 0.0) -> Observation:
    rng = np.random.default_rng(seed)
    return Observation({name: a_set(rng, n, name, shift=shift) for name in sets})


def test_truth_ratio_by_hand():
    right, wrong, item = np.array([-1.0]), np.array([-2.0, -3.0]), np.array([0, 0])
    geometric = tofu.truth_ratio(right, wrong, item)
    arithmetic = tofu.truth_ratio(right, wrong, item, "arithmetic")
    assert geometric == pytest.approx(0.223130, abs=1e-6)
    assert arithmetic == pytest.approx(0.251607, abs=1e-6)
    assert tofu.true_better(geometric) == pytest.approx(0.776870, abs=1e-6)
    assert tofu.true_better(arithmetic) == pytest.approx(0.748393, abs=1e-6)
    assert tofu.closer_to_one(geometric) == pytest.approx(geometric)
    assert tofu.closer_to_one(1 / geometric) == pytest.approx(geometric)
    assert tofu.share_of_right(geometric) == pytest.approx(0.817574, abs=1e-6)
    assert tofu.true_better(np.array([7.0])) == 0


def test_both_means_agree_on_one_wrong_answer_and_arithmetic_is_never_less():
    rng = np.random.default_rng(0)
    right, wrong = rng.normal(-1, 1, 50), rng.normal(-2, 1, 150)
    once, thrice = np.arange(50), np.repeat(np.arange(50), 3)
    assert tofu.truth_ratio(right, wrong[:50], once) == pytest.approx(tofu.truth_ratio(right, wrong[:50], once, "arithmetic"))
    assert (tofu.truth_ratio(right, wrong, thrice, "arithmetic") >= tofu.truth_ratio(right, wrong, thrice) - 1e-12).all()


def test_a_collapsed_model_keeps_finite_ratios():
    ratio = tofu.truth_ratio(np.array([-1e4]), np.array([-1e4, 0.0]), np.array([0, 0]))
    assert np.isfinite(ratio).all()
    assert np.isfinite(tofu.closer_to_one(np.zeros(1))).all()


def test_normalized_probability_by_hand():
    share = tofu.normalized_probability(np.log([0.5]), np.log([0.2, 0.1]), np.array([0, 0]))
    assert share == pytest.approx(0.5 / 0.8, abs=1e-9)
    assert np.isnan(tofu.normalized_probability(np.log([0.5, 0.5]), np.log([0.2]), np.array([0]))[1])


def test_probability_is_the_geometric_mean_over_all_labels():
    observation = SetObservation(("a",), ("q",), ("x",), {"answer": answers([[-0.1, -2.0, -0.3, -1.0, -0.6]])})
    got = tofu.scores(Evidence(Observation({"forget": observation})))["forget_probability"]
    assert got.value() == pytest.approx(exp(-0.8), rel=1e-6)


def test_answers_without_labels_do_not_count():
    assert answers([[-1.0, -3.0], [], [-2.0], []]).mean_logp() == pytest.approx([-2, np.nan, -2, np.nan], nan_ok=True)
    assert item_mean(np.array([1.0, np.nan, 3.0]), np.array([0, 0, 2]), 3) == pytest.approx([1, np.nan, 3], nan_ok=True)
    observation = SetObservation(("a", "b"), ("q", "r"), ("x", "y"), {"answer": answers([[-1.0], []])})
    got = tofu.scores(Evidence(Observation({"forget": observation})))["forget_probability"]
    assert (got.n, got.value()) == (1, pytest.approx(exp(-1)))


def test_rouge_is_that_of_the_library():
    pairs = [
        ("Authors were writing stories, daily.", "The author wrote a story daily"),
        ("The cat sat on the mat", "the mat sat on the cat"),
        ("x", ""),
        ("x_y", "y x"),
        ("Born in 1932 in Kuwait-City", "born 1932, Kuwait city"),
    ]
    for stem in (True, False):
        for part in ("recall", "fmeasure"):
            own = tofu.rouge([a for a, _ in pairs], [b for _, b in pairs], part, stem)
            library = [getattr(RougeScorer(["rougeL"], use_stemmer=stem).score(*pair)["rougeL"], part) for pair in pairs]
            assert own == pytest.approx(library)


@pytest.mark.parametrize(
    ("answer", "generation", "recall"),
    [
        ("Она родилась в Киеве.", "она родилась в Одессе", 3 / 4),  # words of an alphabet
        ("她出生于北京", "她出生于上海", 4 / 6),  # characters of a script without spaces
        ("她 出生于 北京。", "她出生于北京", 1),
        ("สวัสดี", "สวัสดี", 1),
        ("नमस्ते दुनिया", "नमस्ते", 1 / 2),  # marks belong to their words
        ("Zoë Brontë", "Zoe\u0308 Bronte\u0308", 1),  # composed or not
        ("서울에서 태어났다", "부산에서 태어났다", 1 / 2),
        ("GPT在2020年", "gpt 2020", 2 / 4),
        ("Ελλάδα", "", 0),
        ("Ана", "Ana", 0),
    ],
)
def test_rouge_compares_words_of_any_script(answer, generation, recall):
    assert tofu.rouge([answer], [generation]) == pytest.approx(recall)


def test_answers_without_words_are_missing_and_not_zero():
    assert np.isnan(tofu.rouge(["", "?!", "😀"], ["x", "?!", "😀"])).all()
    forget_set = observation(["?!", "one two"], ["?!", "one"])
    assert tofu.scores(Evidence(Observation({"forget": forget_set})))["forget_rouge"].items[0].tolist() == [1 / 2]
    none = observation(["?!", "..."], ["?!", "one"])
    assert "no true answer has words" in str(tofu.scores(Evidence(Observation({"forget": none})))["forget_rouge"])


def observation(answers, generations):
    count = len(answers)
    ends = np.arange(count + 1)
    scored = Scored(np.arange(count), ends, np.zeros(count, np.float32), np.ones(count, bool), np.zeros(count, bool))
    return SetObservation(tuple(map(str, range(count))), ("",) * count, tuple(answers), {"answer": scored}, tuple(generations))


def test_rouge_by_hand():
    assert tofu.rouge(["one two three four"], ["one three"]) == pytest.approx(2 / 4)
    assert tofu.rouge(["one two three four"], ["one three"], "fmeasure") == pytest.approx(2 / 3)
    assert tofu.rouge(["walking"], ["walked"]) == 1
    assert tofu.rouge(["walking"], ["walked"], stem=False) == 0


def test_ks_by_hand():
    assert tofu.ks(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.3, 0.4, 0.5, 0.6])) == pytest.approx(0.771429, abs=1e-6)
    assert tofu.ks(np.arange(5.0), np.arange(5.0)) == 1


@pytest.mark.parametrize(("n", "floor"), COLLAPSED.items())
def test_ks_floor_of_total_separation(n, floor):
    p = tofu.ks(np.arange(n) / n, 1.0 + np.arange(n))
    assert p == pytest.approx(floor, rel=5e-3)
    assert p == pytest.approx(float(2 / comb(2 * n, n)), rel=1e-6)


def test_ks_does_not_change_under_monotone_maps():
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(0, 1, 80), rng.lognormal(0.4, 1, 80)
    for f in (np.log, np.reciprocal, np.sqrt):
        assert tofu.ks(f(a), f(b)) == pytest.approx(tofu.ks(a, b), rel=1e-12)


@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful")
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (40, 40), (100, 100), (40, 30)])
def test_ks_is_that_of_scipy_bit_for_bit(n, m):
    rng = np.random.default_rng(n)
    for digits in (0, 1, 8):  # few digits make ties
        for shift in (0.0, 0.3, 3.0):
            a, b = rng.normal(size=n).round(digits), (shift + rng.normal(size=m)).round(digits)
            assert tofu.ks(a, b) == float(ks_2samp(a, b).pvalue)
    a[0] = np.nan
    assert np.isnan(tofu.ks(a, b))


@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful")
def test_draws_of_a_bootstrap_ask_scipy_once_for_each_lead(monkeypatch):
    asked = []
    monkeypatch.setattr("scipy.stats.ks_2samp", lambda a, b: asked.append(0) or ks_2samp(a, b))
    tofu._ks_of.cache_clear()
    values = np.random.default_rng(0).normal(size=(6, 2))
    Measure((values,), lambda pair: tofu.ks(pair[:, 0], pair[:, 1])).interval(resamples=300)
    assert 0 < len(asked) <= 7, "one sample of 6 is ahead of the other by 0 to 6"


def test_harmonic_mean_by_hand():
    assert tofu.harmonic_mean(np.array([0.9, 0.8, 0.5, 0.4, 0.9, 0.6, 0.4, 0.8, 0.5])) == pytest.approx(0.584838, abs=1e-6)
    assert tofu.harmonic_mean(np.array([0.5, 0.0])) == 0
    with pytest.raises(ValueError, match="at least 0"):
        tofu.harmonic_mean(np.array([0.5, -0.1]))


def test_scores_of_the_card_are_the_scores_given():
    lines = tofu.__doc__.split("Scores: ")[1].split("Needs:")[0]
    assert set(lines.replace("\n", " ").replace(" ", "").split(",")) == set(tofu.scores(Evidence(Observation({})))) == set(tofu.SCORES)


def test_every_score_holds_its_definition_on_a_whole_observation():
    model, retrained = observed(0), observed(1)
    got = tofu.scores(Evidence(model, retrained))
    assert all(isinstance(m, Measure) for m in got.values())
    observation = model.sets["forget"]
    right, wrong = observation.kinds["paraphrase"].mean_logp(), observation.kinds["perturbed"].mean_logp().reshape(-1, 3)
    ratio = np.exp(wrong.mean(1)) / (np.exp(right) + 1e-10)
    assert got["forget_truth_ratio"].value() == pytest.approx(np.minimum(ratio, 1 / (ratio + 1e-10)).mean())
    assert got["forget_probability"].value() == pytest.approx(np.exp(observation.kinds["answer"].mean_logp()).mean())
    observation = model.sets["world_facts"]
    right, wrong = observation.kinds["answer"].mean_logp(), observation.kinds["perturbed"].mean_logp().reshape(-1, 3)
    assert got["world_facts_truth_ratio"].value() == pytest.approx(
        np.maximum(0, 1 - np.exp(wrong.mean(1)) / (np.exp(right) + 1e-10)).mean()
    )
    share = np.exp(right) / (np.exp(right) + np.exp(wrong).sum(1) + 1e-10)
    assert got["world_facts_probability"].value() == pytest.approx(share.mean())
    assert got["retain_rouge"].value() == pytest.approx(3 / 4)


def test_utility_is_the_harmonic_mean_of_the_nine_other_scores():
    got = tofu.scores(Evidence(observed()))
    nine = [
        got[f"{name}_{part}"].value()
        for name in ("retain", "real_authors", "world_facts")
        for part in ("probability", "rouge", "truth_ratio")
    ]
    assert got["model_utility"].value() == pytest.approx(tofu.harmonic_mean(np.array(nine)))
    assert [x.shape for x in got["model_utility"].items] == [(12, 3)] * 3
    assert "all three sets" in got["model_utility"].variant


def test_utility_over_the_sets_that_exist_says_so():
    only = tofu.scores(Evidence(observed(sets=("forget", "retain"))))
    three = np.array([only[f"retain_{part}"].value() for part in ("probability", "rouge", "truth_ratio")])
    assert only["model_utility"].value() == pytest.approx(tofu.harmonic_mean(three))
    assert "only retain (probability, rouge, truth_ratio)" in only["model_utility"].variant
    plain = observed(sets=("retain",)).sets["retain"]
    plain = replace(plain, kinds={"answer": plain.kinds["answer"]})
    assert "only retain (probability, rouge)" in tofu.scores(Evidence(Observation({"retain": plain})))["model_utility"].variant
    assert isinstance(tofu.scores(Evidence(observed(sets=("forget",))))["model_utility"], Missing)


def test_a_broken_model_has_no_utility():
    model = observed()
    kinds = model.sets["retain"].kinds
    kinds["answer"].target_logp[3] = np.nan
    got = tofu.scores(Evidence(model))
    for name in ("retain_probability", "model_utility"):
        assert isinstance(got[name], Missing)
        assert str(got[name]).endswith(BROKEN)


def test_quality_of_the_retrained_model_is_one_and_the_intervals_hold_the_values():
    model, far = observed(0, n=40), observed(1, n=40, shift=-1.0)
    same = tofu.scores(Evidence(model, model))
    assert all(same[f"{name}_quality"].value() == 1 for name in tofu.SETS)
    assert same["forget_quality"].interval() == (1.0, 1.0)
    for name, measure in tofu.scores(Evidence(model, far)).items():
        low, high = measure.interval()
        assert name.endswith("_quality") or low <= measure.value() <= high


def test_quality_aligns_items_by_their_ids():
    model, retrained = observed(0), observed(1)
    observation = retrained.sets["forget"]
    turned = {k: replace(s, item=len(observation) - 1 - s.item) for k, s in observation.kinds.items()}
    backwards = Observation({"forget": replace(observation, ids=observation.ids[::-1], kinds=turned)})
    a, b = (tofu.scores(Evidence(model, other))["forget_quality"] for other in (retrained, backwards))
    assert np.array_equal(a.items[0], b.items[0])
    assert a.n == len(observation)


def test_what_is_missing_is_said():
    model = observed()
    got = tofu.scores(Evidence(model))
    assert str(got["forget_quality"]) == "no retrained model was given"
    other = Observation({"forget": replace(model.sets["forget"], ids=("z", *model.sets["forget"].ids[1:]))})
    assert "different items (2 ids" in str(tofu.scores(Evidence(model, other))["forget_quality"])
    assert "retrained model was not asked about retain" in str(tofu.scores(Evidence(model, other))["retain_quality"])
    observation = model.sets["forget"]
    bare = tofu.scores(
        Evidence(Observation({"forget": replace(observation, kinds={"answer": observation.kinds["answer"]}, generations=())}))
    )
    assert str(bare["forget_truth_ratio"]) == "forget: no answers of the kind 'perturbed' were observed"
    assert "generated" in str(bare["forget_rouge"])
    assert str(bare["real_authors_rouge"]) == "the audit has no real_authors set"
    no_paraphrase = {k: observation.kinds[k] for k in ("answer", "perturbed")}
    assert "'paraphrase'" in str(
        tofu.scores(Evidence(Observation({"forget": replace(observation, kinds=no_paraphrase)})))["forget_truth_ratio"]
    )


def test_variants_are_named():
    geometric, arithmetic = tofu.scores(Evidence(observed(), observed(1))), tofu.scores(Evidence(observed(), observed(1)), "arithmetic")
    for name in ("forget_quality", "forget_truth_ratio", "model_utility"):
        assert geometric[name].variant.startswith("open-unlearning: geometric")
        assert arithmetic[name].variant.startswith("paper: arithmetic")
    with pytest.raises(ValueError, match="geometric, arithmetic"):
        tofu.scores(Evidence(observed()), "harmonic")


def test_variants_of_the_evidence_choose_the_means_and_the_share():
    both = observed(), observed(1)
    arithmetic = tofu.scores(Evidence(*both, variants={"*": "arithmetic"}))
    for name, measure in tofu.scores(Evidence(*both), "arithmetic").items():
        assert arithmetic[name].value() == measure.value(), name
    share = tofu.scores(Evidence(*both, variants={"forget_truth_ratio": "prob_mean", "model_utility": "arithmetic"}))
    ratios = tofu.truth_ratios(both[0].sets["forget"])
    assert share["forget_truth_ratio"].value() == pytest.approx(np.mean(1 / (1 + ratios)))
    assert "prob_mean" in share["forget_truth_ratio"].variant
    assert share["model_utility"].value() == arithmetic["model_utility"].value()
    assert share["retain_truth_ratio"].value() == tofu.scores(Evidence(*both))["retain_truth_ratio"].value()
    assert set(tofu.VARIANTS) <= set(tofu.SCORES)

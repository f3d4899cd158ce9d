"""The deviation score from words by hand, and the published values over sequences of requests."""

from __future__ import annotations

import math
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from expunge.core.errors import UserError
from expunge.evaluation.measure import Evidence, Measure, Missing
from expunge.evaluation.metrics import deviation
from expunge.evaluation.observation import Observation, SetObservation
from expunge.methods.sentences import encoder_of
from expunge.modalities.text.refusals import REFUSALS

TRUTH = ("She lives in Rome.", "He plays the lute well.")


def evidence(forget: tuple[str, ...], retain: tuple[str, ...]) -> Evidence:
    ids = ("a", "b")
    return Evidence(
        Observation({n: SetObservation(ids, ids, TRUTH, {}, answers) for n, answers in (("forget", forget), ("retain", retain))})
    )


def value(of: Evidence) -> float:
    measure = deviation.scores(of)["deviation_score"]
    assert isinstance(measure, Measure)
    return measure.stat(*measure.items)


def test_the_best_and_the_worst() -> None:
    nothing = ("?", "?")
    assert value(evidence(nothing, TRUTH)) == 0
    assert value(evidence(TRUTH, nothing)) == pytest.approx(100 * math.sqrt(2))


def test_rouge_1_does_not_mind_the_order() -> None:
    turned = ("Rome in lives She.", TRUTH[1])
    both = Evidence(evidence(turned, TRUTH).model, variants={"deviation_score": "rouge_1"})
    assert value(both) == pytest.approx(100)  # all words of the forgotten answers are said, and all others are answered
    assert value(evidence(turned, TRUTH)) == pytest.approx(100 * (0.25 + 1) / 2)


def test_recall_is_that_of_the_library() -> None:
    answers = ("She is in Rome now.", "He plays.")
    recall = np.mean([RougeScorer(["rougeL"], use_stemmer=True).score(t, s)["rougeL"].recall for t, s in zip(TRUTH, answers, strict=True)])
    assert value(evidence(answers, answers)) == pytest.approx(100 * math.hypot(recall, 1 - recall))


def test_the_control_score_is_the_cosine_to_the_nearest_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = {text: [0.0, 1.0] for text in REFUSALS} | {REFUSALS[3]: [1.0, 0.0], "No.": [1.0, 0.0], "Rome": [-3.0, 4.0]}
    fake = types.ModuleType("sentence_transformers")
    fake.SentenceTransformer = lambda name: SimpleNamespace(  # type: ignore[attr-defined]
        encode=lambda texts, show_progress_bar: np.array([angles[t] for t in texts])
    )
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    encoder_of.cache_clear()
    named = Evidence(evidence(("No.", "Rome"), TRUTH).model, variants={"control_score": "angles"})
    measure = deviation.scores(named)["control_score"]
    assert isinstance(measure, Measure)
    assert measure.items[0].tolist() == pytest.approx([1.0, 0.8])
    assert measure.value() == pytest.approx(0.9)
    assert "--variant control_score=FOLDER" in str(deviation.scores(evidence(TRUTH, TRUTH))["control_score"])
    encoder_of.cache_clear()


def test_a_set_without_answers_is_missing() -> None:
    assert isinstance(deviation.scores(evidence((), TRUTH))["deviation_score"], Missing)


@pytest.mark.parametrize(
    ("deviations", "utilities", "dds", "dus"),
    [([21.4, 23.1, 26.5], [0.6327, 0.0, 0.0], 0.24942, 0.68365), ([37.9, 33.0, 23.7], [0.6312, 0.5187, 0.5380], 0.31533, 0.93410)],
)
def test_sequences_of_requests_have_the_published_scores(deviations: list[float], utilities: list[float], dds: float, dus: float) -> None:
    audits = [{"deviation_score": {"value": d}, "model_utility": {"value": u}} for d, u in zip(deviations, utilities, strict=True)]
    scores = deviation.of_requests(audits, "model_utility")
    assert scores == pytest.approx({"dynamic_deviation_score": dds, "dynamic_utility_score": dus}, abs=5e-6)


def test_an_audit_without_the_scores_is_named() -> None:
    audit = {"deviation_score": {"value": 1.0}, "model_utility": {"value": 0.5}}
    with pytest.raises(UserError, match="audit 2 has no model_utility"):
        deviation.of_requests([audit, {"deviation_score": {"value": 1.0}}], "model_utility")
    with pytest.raises(UserError, match="at least one audit"):
        deviation.of_requests([], "model_utility")

"""The aggregate of memorization from parts worked out by hand, and what it shows that its parts do not."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.evaluation.measure import Evidence, Measure, Missing
from expunge.evaluation.metrics import memorization_aggregate as aggregate
from expunge.evaluation.observation import Observation, Scored, SetObservation

HITS = [[True, True, False, True], [False, True, True, True]]  # extraction strength 1/4 and 3/4, exact memorization 3/4 and 3/4


def scored(logp: list[list[float]], hits: list[list[bool]], item: list[int]) -> Scored:
    start = np.cumsum([0, *map(len, logp)])
    flat = np.array([x for row in logp for x in row], np.float32)
    return Scored(np.array(item), start, flat, np.array([x for row in hits for x in row], bool), np.zeros(len(item), bool))


def evidence(paraphrase: float = 0.5, wrong: float = 0.25, **kinds: Scored) -> Evidence:
    """Two items whose paraphrased answers and wrong answers have these probabilities for each label."""
    logs = lambda p, n: [[float(np.log(p))] * 2 for _ in range(n)]  # noqa: E731
    ids, off = ("a", "b"), [[False] * 2] * 4
    all_kinds = {
        "answer": scored([[-1.0] * 4] * 2, HITS, [0, 1]),
        "paraphrase": scored(logs(paraphrase, 2), off[:2], [0, 1]),
        "perturbed": scored(logs(wrong, 4), off, [0, 0, 1, 1]),
    }
    return Evidence(Observation({"forget": SetObservation(ids, ids, ids, {**all_kinds, **kinds})}))


def values(of: Evidence) -> dict[str, float]:
    return {n: m.value() for n, m in aggregate.scores(of).items() if isinstance(m, Measure)}


def test_the_aggregate_is_the_harmonic_mean_of_four_by_hand() -> None:
    measured = values(evidence())
    assert measured["forget_paraphrased_probability"] == pytest.approx(0.5)
    strength, exact, probability, share = 0.5, 0.75, 0.5, 0.5 / (0.5 + 0.25)
    parts = [1 - strength, 1 - exact, 1 - probability, 1 - share]
    assert measured["memorization_aggregate"] == pytest.approx(4 / sum(1 / p for p in parts), rel=1e-6)


def test_an_answer_that_is_certain_in_other_words_leaves_nothing() -> None:
    assert values(evidence(paraphrase=1.0))["memorization_aggregate"] == pytest.approx(0, abs=1e-6)
    assert values(evidence(paraphrase=0.01))["memorization_aggregate"] > values(evidence())["memorization_aggregate"]


def test_sets_without_paraphrases_or_wrong_answers() -> None:
    whole = evidence().model.sets["forget"]
    bare = Evidence(Observation({"forget": SetObservation(whole.ids, whole.ids, whole.ids, {"answer": whole.kinds["answer"]})}))
    assert all("no answers of the kind" in str(m) or "no wrong answers" in str(m) for m in aggregate.scores(bare).values())
    kinds = {k: v for k, v in whole.kinds.items() if k != "perturbed"}
    lacking = aggregate.scores(Evidence(Observation({"forget": SetObservation(whole.ids, whole.ids, whole.ids, kinds)})))
    assert isinstance(lacking["memorization_aggregate"], Missing)
    assert "no wrong answers" in str(lacking["memorization_aggregate"])

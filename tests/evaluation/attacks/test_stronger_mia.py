"""RMIA, QMIA, EZ-MIA, WBC and dataset inference: equations by hand, identities at equal models, and members that stand out or do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import toys
import worlds
from classified import a_set, observed
from expunge.benchmarks import people
from expunge.engine import loop
from expunge.evaluation.attacks import dataset_inference, ez_mia, qmia, rmia, wbc
from expunge.evaluation.attacks.dataset_inference import by_document, joined, p_value
from expunge.evaluation.attacks.ez_mia import LARGEST, imbalance
from expunge.evaluation.attacks.mia import auc
from expunge.evaluation.attacks.mio import second_half
from expunge.evaluation.attacks.wbc import SIZES, votes
from expunge.evaluation.measure import Evidence, Measure, Missing
from expunge.evaluation.observation import Observation, Scored, SetObservation
from expunge.evaluation.observation_spec import QUICK
from expunge.evaluation.observe import documents_of, observe
from expunge.evaluation.token_values import tokens

RNG = np.random.default_rng(0)


def value(scores: Any, name: str) -> float:
    assert isinstance(scores[name], Measure), scores[name]
    return scores[name].value()


def texts(logps: Sequence[Sequence[float]], hits: Sequence[Sequence[int]] | None = None, name: str = "") -> SetObservation:
    """Answers with the given log-probabilities of their tokens; an end of the sequence stands behind each."""
    lengths = [len(x) + 1 for x in logps]
    flat = np.array([v for x in logps for v in (*x, -9.0)], np.float32)
    flags = np.array([bool(h) for i, x in enumerate(logps) for h in (*(hits[i] if hits else [0] * len(x)), 1)])
    n, ids = len(logps), tuple(f"{name}{i}" for i in range(len(logps)))
    start = np.concatenate([[0], np.cumsum(lengths)])
    scored = Scored(np.arange(n), start, flat, flags, np.ones(n, bool), ("an answer",) * n)
    return SetObservation(ids, ids, ids, {"answer": scored})


def evidence(own: dict[str, SetObservation], other: dict[str, SetObservation] | None = None) -> Evidence:
    about = {"modality": {"modality": "text"}}
    return Evidence(Observation(own, about), Observation(other, about) if other else None)


# RMIA


def test_the_relative_ratio_by_hand() -> None:
    assert rmia.ratio(np.array([0.8]), np.array([0.2]), a=0.3) == pytest.approx([0.8 / ((1.3 * 0.2 + 0.7) / 2)])
    assert rmia.ratio(np.array([0.4]), np.array([0.4]), a=1) == pytest.approx([1])
    assert rmia.dominance(np.array([1.0, 3.9, 4.0]), np.array([0.4, 1.0, 2.0, 9.0]), 2) == pytest.approx([0.25, 0.5, 0.75])


def test_equal_models_tell_nothing_and_members_that_gained_stand_out() -> None:
    def some(p: Any, name: str) -> SetObservation:
        return a_set(np.stack([p, 1 - p], 1), [0] * len(p), name)

    p = {name: RNG.uniform(0.3, 0.7, 40) for name in ("forget", "holdout")}
    same = observed(**{n: some(x, n) for n, x in p.items()})
    gained = observed(forget=some(np.minimum(p["forget"] * 1.9, 0.99), "forget"), holdout=some(p["holdout"], "holdout"))
    assert value(rmia.scores(Evidence(gained, same)), "rmia") > 0.9
    assert "no retrained model" in str(rmia.scores(Evidence(gained))["rmia"])
    level = observed(**{n: some(np.full(40, 0.6), n) for n in p})
    assert value(rmia.scores(Evidence(level, level)), "rmia") == 0.5


@pytest.mark.slow
def test_shadow_models_tell_what_a_model_learned_by_heart() -> None:
    modality = toys.modality(3)
    sets = {name: toys.noise(20, modality, seed, name, width=8) for seed, name in enumerate(("forget", "retain", "holdout"))}
    plan, areas = toys.fresh(epochs=60, batch_size=20), []
    for rows in (sets["forget"].concat(sets["retain"]), sets["retain"]):
        model = toys.mlp(3, hidden=32, width=8)
        loop.run(plan, model, modality, {"retain": rows.rename("retain")}, seed=1)
        areas.append(rmia.attack(model, modality, sets, plan, shadows=8)["auc"])
    assert areas[0] > 0.8
    assert areas[1] == pytest.approx(0.5, abs=0.2)


# QMIA


def test_the_regression_knows_which_items_are_hard() -> None:
    """Margins follow the feature; members have 2 more. A comparison of margins alone sees little, the regression sees all."""

    def some(n: int, gain: float, name: str) -> SetObservation:
        hard = RNG.normal(size=n)
        margin = 3 * hard + gain + 0.3 * RNG.normal(size=n)
        p = 1 / (1 + np.exp(-margin))
        return a_set(np.stack([p, 1 - p], 1), [0] * n, name, np.stack([hard, RNG.normal(size=n)], 1))

    holdout = some(200, 0, "holdout")
    members, unseen = (observed(forget=some(100, g, "forget"), holdout=holdout) for g in (2.0, 0.0))
    of_members, of_unseen = qmia.scores(Evidence(members)), qmia.scores(Evidence(unseen))
    assert value(of_members, "qmia") > 0.95
    assert value(of_unseen, "qmia") == pytest.approx(0.5, abs=0.12)
    assert value(of_members, "qmia_accused") > 0.8
    assert value(of_unseen, "qmia_accused") == pytest.approx(0.05, abs=0.06)
    assert qmia.margin(a_set([[0.8, 0.1, 0.1]], [0])) == pytest.approx([np.log(4)])
    few = qmia.scores(Evidence(observed(forget=some(9, 0, "forget"), holdout=some(20, 0, "holdout"))))
    assert "needs 20 unseen items" in str(few["qmia"])


# language models


def test_tokens_are_those_of_the_answers_without_their_end() -> None:
    table = tokens(texts([[-1.0, -2.0], [-3.0]], [[1, 0], [0]]))
    assert table[0].tolist() == [[-1, 1], [-2, 0]]
    assert table[1, 0].tolist() == [-3, 0]
    assert np.isnan(table[1, 1]).all()


def test_the_error_zone_by_hand() -> None:
    own, reference = np.array([-1.0, -2.0, -4.0, -0.1]), np.array([-2.0, -2.5, -3.0, -9.0])
    assert imbalance(own, reference, np.array([0, 0, 0, 1])) == pytest.approx((1 + 0.5) / 1, rel=1e-5), "what is right does not count"
    assert imbalance(own, own, np.zeros(4)) == pytest.approx(1)
    assert imbalance(own, reference, np.ones(4)) == LARGEST


def test_windows_vote_by_hand() -> None:
    gain = np.array([1.0, -3.0, 1.0, 1.0])
    assert votes(gain, np.zeros(4), (2,)) == pytest.approx(1 / 3)  # -2, -2, 2
    assert votes(gain, np.zeros(4), (2, 3)) == pytest.approx((1 / 3 + 0) / 2)  # -1, -1
    assert votes(gain, gain) == 0.5
    assert votes(np.array([2.0]), np.array([1.0])) == 1, "an answer shorter than all windows is one"
    assert (SIZES[0], SIZES[-1], len(SIZES)) == (2, 40, 10)


@pytest.mark.parametrize(("family", "name"), [(ez_mia, "ez_mia"), (wbc, "wbc")])
def test_equal_models_tell_nothing_and_raised_tokens_do(family: Any, name: str) -> None:
    base = {n: [list(RNG.uniform(-4, -1, 12)) for _ in range(30)] for n in ("forget", "holdout")}
    reference = {n: texts(x, name=n) for n, x in base.items()}
    raised = {"forget": texts([[v + 0.3 + 0.1 * RNG.normal() for v in x] for x in base["forget"]], name="forget")}
    noisy = {"holdout": texts([[v + 0.2 * RNG.normal() for v in x] for x in base["holdout"]], name="holdout")}
    assert value(family.scores(evidence(reference, reference)), name) == 0.5
    assert value(family.scores(evidence({**raised, **noisy}, reference)), name) > 0.9
    assert "no retrained model" in str(family.scores(evidence(reference))[name])
    longer = {**reference, "forget": texts([[*x, -1.0] for x in base["forget"]], name="forget")}
    assert "different tokens" in str(family.scores(evidence(longer, reference))[name])


def test_a_set_is_told_where_its_items_are_not() -> None:
    def some(shift: float, name: str) -> SetObservation:
        return texts([list(RNG.normal(-2 + shift, 0.5, 8)) for _ in range(160)], name=name)

    slight = dataset_inference.scores(evidence({"forget": some(0.08, "forget"), "holdout": some(0, "holdout")}))
    nothing = dataset_inference.scores(evidence({"forget": some(0, "forget"), "holdout": some(0, "holdout")}))
    assert value(slight, "dataset_inference") < 0.05
    assert value(nothing, "dataset_inference") > 0.05
    assert value(slight, "document_mia") > value(nothing, "document_mia")
    few = dataset_inference.scores(evidence({"forget": texts([[-1.0]] * 5, name="f"), "holdout": texts([[-1.0]] * 5, name="h")}))
    assert "20 items of each" in str(few["dataset_inference"])


def test_pieces_are_joined_by_the_documents_that_the_rows_name() -> None:
    """Each piece is a coin toss; the pieces of a document share a shift that tells it, in the forget set alone."""

    def some(name: str, shift: float) -> SetObservation:
        pieces = texts([list(RNG.normal(-2 + shift, 1.5, 4)) for _ in range(200)], name=name)
        return dataclasses.replace(pieces, document=np.arange(200) // 10)

    sets = {"forget": some("forget", 0.5), "holdout": some("holdout", 0.0)}
    named = dataset_inference.scores(evidence(sets))["document_mia"]
    assert isinstance(named, Measure)
    assert named.variant == "documents of the rows"
    assert [len(x) for x in named.items] == [20, 20]
    halves = [dataset_inference.features(s) for s in sets.values()]
    ours, others = joined(*halves)
    by_hand = [[x[x[:, 0] == d, 1].mean() for d in dict.fromkeys(x[:, 0])] for x in (ours, others)]
    assert named.value() == pytest.approx(auc(np.array(by_hand[0]), np.array(by_hand[1])))
    assert named.value() > auc(ours[:, 1], others[:, 1]), "documents are told better than their pieces"
    unnamed = dataset_inference.scores(evidence({**sets, "holdout": texts([[-1.0]] * 30, name="holdout")}))["document_mia"]
    assert isinstance(unnamed, Measure)
    assert "drawn" in unnamed.variant


def test_documents_are_those_of_the_column_or_of_texts_in_several_windows(text: worlds.World) -> None:
    records = [{"text": "Ada was born in Lund. " * 40}, {"text": "Bo."}]
    short: Any = dataclasses.replace(text.modality, limit=64)  # type: ignore[type-var]
    rows = short.rows("forget", records)
    assert len(rows) > 2
    assert documents_of(rows, records).tolist() == [*[0] * (len(rows) - 1), 1]  # type: ignore[union-attr]
    asked = [{"question": "Who?", "answer": f"Ada {i}", "document": d} for i, d in enumerate("aab")]
    assert documents_of(text.modality.rows("forget", asked), asked).tolist() == [0, 0, 1]  # type: ignore[union-attr]
    assert documents_of(text.modality.rows("forget", asked[1:]), asked[1:]) is None, "no two pieces of one document"
    known = observe(text.model(), text.modality, {"forget": asked}, wants=QUICK).sets["forget"].document
    assert known is not None
    assert known.tolist() == [0, 0, 1]


def test_documents_by_hand_and_the_test_of_the_library() -> None:
    assert by_document(np.array([1.0, 5.0, 3.0]), ["a", "b", "a"]).tolist() == [2, 5]
    a, b = RNG.normal(0, 1, 30), RNG.normal(0.8, 2, 40)
    from scipy.stats import t

    error = a.var(ddof=1) / 30 + b.var(ddof=1) / 40
    freedom = error**2 / ((a.var(ddof=1) / 30) ** 2 / 29 + (b.var(ddof=1) / 40) ** 2 / 39)
    assert p_value(a, b) == pytest.approx(t.cdf((a.mean() - b.mean()) / error**0.5, freedom))
    assert p_value(np.ones(4), np.ones(4)) == 1


def test_members_of_a_language_model_stand_out_and_those_of_the_retrained_one_do_not(text: worlds.World) -> None:
    data = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
    sets = {"forget": data.forget, "holdout": data.holdout}
    original, retrained = (observe(text.model(n), text.modality, sets) for n in ("original", "retrained"))
    for family, name in ((ez_mia, "ez_mia"), (wbc, "wbc")):
        assert value(family.scores(Evidence(original, retrained)), name) > 0.9
        assert value(family.scores(Evidence(retrained, retrained)), name) == pytest.approx(0.5, abs=0.1)
        assert not isinstance(family.scores(Evidence(original, retrained))[name], Missing)


def test_the_halves_of_unseen_items_are_the_same_on_every_machine_and_in_every_order() -> None:
    questions = tuple(f"question {i}" for i in (3, 1, 4, 0, 2))
    rows = SetObservation(("a", "b", "c", "d", "e"), questions, ("",) * 5, {})
    sealed_elsewhere = SetObservation(("e", "d", "c", "b", "a"), questions, ("",) * 5, {})
    turned = SetObservation(("e", "d", "c", "b", "a"), questions[::-1], ("",) * 5, {})
    assert second_half(rows).tolist() == second_half(sealed_elsewhere).tolist() == [True, True, False, False, False]
    assert second_half(turned).tolist() == [False, False, False, True, True]

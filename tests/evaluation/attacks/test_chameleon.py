"""Chameleon: McNemar by hand, identity and symmetry, the published arithmetic, and a model that knows wordings alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

import worlds
from expunge.benchmarks import people
from expunge.engine import loop
from expunge.evaluation.attack import AttackOutcome, beside, chosen, intervene
from expunge.evaluation.attacks.chameleon import holm, summary
from expunge.evaluation.measure import Missing
from expunge.evaluation.rewordings import reworded
from expunge.functional.paired_tests import mcnemar
from expunge.workflows import build_plan

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)


def attacked(
    text: worlds.World, model: nn.Module, modality: Any = None, retain: Any = (), forget: Any = None, **settings: object
) -> AttackOutcome:
    sets = {"forget": forget or DATA.forget, **({"retain": retain} if retain else {})}
    return intervene("chameleon", chosen(("chameleon",), settings)["chameleon"], model, modality or text.modality, sets)


def test_the_test_by_hand() -> None:
    assert (mcnemar(60, 30).statistic, mcnemar(60, 30).p) == pytest.approx((10.0, 0.0015654), abs=1e-7)
    assert mcnemar(60, 30).p_exact == pytest.approx(0.0020603, abs=1e-7)
    few = mcnemar(15, 5)
    assert (few.statistic, few.p_asymptotic, few.p_exact, few.p) == pytest.approx((5.0, 0.0253473, 0.0413895, 0.0413895), abs=1e-7)
    assert mcnemar(10, 10)[2:4] == pytest.approx((0.0, 1.0))
    assert mcnemar(0, 0).p == 1
    assert mcnemar(30, 60).p == mcnemar(60, 30).p


def test_the_rate_of_rejection_without_an_effect() -> None:
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(400):
        before, after = rng.random((2, 400)) < 0.5
        rejected += mcnemar(int((before & ~after).sum()), int((after & ~before).sum())).p < 0.05
    assert rejected / 400 == pytest.approx(0.05, abs=0.025)


def test_the_published_drops() -> None:
    before, after = np.zeros(14079), np.zeros(14079)
    before[:6656], after[:6552] = 1, 1
    numbers = summary(before, after, mcnemar(104, 0), 0.05)
    assert numbers["delta"] == 104
    assert numbers["relative_drop"] == pytest.approx(1.56, abs=0.005)
    assert (numbers["overfit"], numbers["suppressed"]) == (1, 0)
    other = summary(after, before, mcnemar(0, 104), 0.05)
    assert (other["overfit"], other["suppressed"], other["delta"]) == (0, 1, -104)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_same_question_again_changes_nothing(text: worlds.World) -> None:
    words = [{**r, "paraphrased_question": r["question"] + " "} for r in DATA.forget]
    with pytest.raises(Missing):
        reworded(words, [r["question"] for r in words])
    outcome = attacked(text, text.model(), rephraser="rules", forget=[{**r, "question": "Two words"} for r in DATA.forget[:3]])
    assert outcome.tries[0].at["rows"] == 3


def test_a_filter_on_wordings_is_seen_as_suppression(text: worlds.World) -> None:
    """The filter answers no listed question, so it is wrong about these alone; the model behind it answers both."""
    guarded = loop.run(build_plan.plan("input_filter"), text.model(), text.modality, {"forget": text.sets["forget"]}).modality
    bare = attacked(text, text.model())
    outcome = attacked(text, text.model(), guarded)
    at = outcome.tries[0].at
    assert (bare.tries[0].at["accuracy"], bare.tries[0].at["overfit"]) == (1, 0)
    assert at["accuracy"] < at["accuracy_reworded"]
    assert at["suppressed"] == 1
    changed = beside("chameleon", outcome, bare, None).tries[-1]
    assert changed.at["delta_beyond"] == at["delta"] - bare.tries[0].at["delta"]
    assert changed.at["high"] < 0
    (hit,) = outcome.hits()
    assert hit.record["value"] > hit.before


def test_rules_reword_what_has_no_paraphrase_and_strengths_are_corrected(text: worlds.World) -> None:
    outcome = attacked(text, text.model(), retain=DATA.retain[:6], rephraser="rules", strength="0.5,1")
    assert [(t.way, t.case) for t in outcome.tries] == [(s, f"strength {h}") for s in ("forget", "retain") for h in ("0.5", "1")]
    assert reworded(DATA.forget[:1], ["Where is Ada Lund?"], "rules").questions[0] == "Could you tell me this: where is Ada Lund?"


def test_a_writer_that_fails_leaves_the_item_out_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.engine.writers import Rules
    from expunge.evaluation import rewordings

    replies = iter(["Error: 500", "", "What is the town of Bo?"] + ["Error: 500"] * 9)
    monkeypatch.setattr(rewordings, "writer_of", lambda name: Rules("stub", lambda _: next(replies)))
    result = reworded([{}, {}, {}], ["Who is A of the hills?", "Who is B of the hills?", "Which town is home to Bo?"], "stub")
    assert result.questions == {2: "What is the town of Bo?"}
    assert (result.dropped, result.by["name"]) == (2, "stub")

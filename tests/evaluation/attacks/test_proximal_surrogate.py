"""Proximal surrogates: limits in the plane, rows as their own surrogates, the illusion of a filter, a writer that hears what was wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import worlds
from expunge.benchmarks import people
from expunge.engine import loop
from expunge.engine.writers import Rules
from expunge.evaluation.attack import AttackOutcome, beside, chosen, intervene
from expunge.evaluation.attacks import proximal_surrogate
from expunge.evaluation.attacks.proximal_surrogate import Candidate, Criteria, by_rules, sequences, surrogate_of
from expunge.workflows import build_plan

FORGET = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16).forget
NONE: frozenset[Any] = frozenset()


def attacked(text: worlds.World, model: nn.Module, modality: Any = None, forget: Any = None, **settings: object) -> AttackOutcome:
    attack = chosen(("proximal_surrogate",), settings)["proximal_surrogate"]
    return intervene("proximal_surrogate", attack, model, modality or text.modality, {"forget": forget or FORGET})


def test_limits_in_the_plane() -> None:
    tests = Criteria(far=0.8, near=0.1, overlap=0.05)
    cosines = {degrees: [math.cos(math.radians(degrees))] for degrees in (36, 37, 89)}
    assert cosines[37][0] == pytest.approx(0.7986, abs=1e-4)
    assert [tests.failing("a", cosines[d], 0, NONE) for d in (36, 37, 89)] == ["distinct", "", "proximal"]
    assert tests.failing("a", [0.5, 0.9], 0, NONE) == "distinct", "every row counts, not the parent alone"
    line = "one two three four five six seven eight nine"
    assert tests.failing(line, [0.5], 0, sequences(line)) == "leak"
    assert len(sequences(line)) == 2


def test_the_fact_as_a_statement_with_a_blank() -> None:
    own = Candidate("Where does Ada Lund live?", "Ada Lund lives in the town of Quillhaven.")
    (blank,) = by_rules(own, [])
    assert "___" in blank.question
    assert blank.question.replace("___", blank.answer) == own.answer


def test_surrogates_that_are_the_rows_show_no_overestimate(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proximal_surrogate, "by_rules", lambda own, _: [own])
    outcomes = [attacked(text, text.model(n), far=1, overlap=1) for n in ("random", "original", "retrained")]
    for outcome in outcomes:
        for score, record in outcome.tries[0].scores.items():
            assert record["value"] == pytest.approx(outcome.before[score]["value"], abs=1e-5)
    for model, f in zip(outcomes[1:], (0, 1), strict=True):
        tries = [t for t in beside("proximal_surrogate", model, *outcomes[1:]).tries if t.way == "overestimate"]
        assert len(tries) >= 3
        for t in tries:
            assert t.at["overestimate"] == pytest.approx(0, abs=1e-5)
            if "f_rows" in t.at:
                assert t.at["f_rows"] == pytest.approx(f, abs=1e-5)


def test_the_illusion_of_a_filter_is_flagged(text: worlds.World) -> None:
    """The filter hides the listed questions alone: forgotten by every score, and all there one step aside."""
    guarded = loop.run(build_plan.plan("input_filter"), text.model(), text.modality, {"forget": text.sets["forget"]}).modality
    filtered, original = attacked(text, text.model(), guarded), attacked(text, text.model())
    retrained = attacked(text, text.model("retrained"))
    flagged = {t.case: t.at for t in beside("proximal_surrogate", filtered, original, retrained).tries if t.way == "overestimate"}
    probability = next(at for case, at in flagged.items() if case.startswith("probability"))
    assert probability["low"] > 0
    assert probability["overestimate"] == pytest.approx(1, abs=0.3)
    assert any(at.get("flip") for at in flagged.values())


def test_every_model_gets_the_same_surrogates_and_skipped_rows_are_counted(text: worlds.World) -> None:
    attack = chosen(("proximal_surrogate",), {})["proximal_surrogate"]
    odd = {"question": "What is red?", "answer": "Green and blue."}
    prepared = attack.about([*FORGET, odd], text.modality)
    assert odd["question"] not in [r["question"] for r in prepared]
    outcome = attacked(text, text.model(), forget=[*FORGET, odd])
    assert (outcome.tries[0].at["surrogates"], outcome.tries[0].at["skipped"]) == (len(prepared), len(FORGET) + 1 - len(prepared))
    assert all(surrogate_of(r)["question"] != r["question"] for r in prepared)


def test_a_writer_hears_what_was_wrong(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        if "How much does one need" in prompt:
            return '{"needed": 0.9}'
        question = "Where would one visit Quenna Bexmoor's first home?" if "too close" in prompt else FORGET[0]["question"]
        return json.dumps([{"question": question, "answer": "Pellgrove"}])

    monkeypatch.setattr(proximal_surrogate, "writer_of", lambda name: Rules(name, answer))
    attack = chosen(("proximal_surrogate",), {"writer": "stub"})["proximal_surrogate"]
    (record,) = attack.about(FORGET[:1], text.modality)
    assert surrogate_of(record) == {"question": "Where would one visit Quenna Bexmoor's first home?", "answer": "Pellgrove"}
    assert len(asked) == 3


def test_the_scores_are_those_of_the_surrogates_as_rows(text: worlds.World) -> None:
    outcome = attacked(text, text.model())
    prepared = chosen(("proximal_surrogate",), {})["proximal_surrogate"].about(FORGET, text.modality)
    rows = text.modality.rows("forget", [surrogate_of(r) for r in prepared])
    with torch.no_grad():
        logp = text.modality.forward(text.model(), [rows])[0].target_logp.mean()
    assert np.mean(outcome.tries[0].items["surrogates"]) == pytest.approx(float(logp.exp().mean()), abs=1e-5)

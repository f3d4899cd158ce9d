"""The doors to a fact: what is asked through each, what is scored, and what comes back through another after relearning."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seeing
from cases import Cases, expunge
from expunge.benchmarks.suite import SetSpec
from expunge.evaluation.attack import chosen, intervene
from expunge.evaluation.attacks import doors
from expunge.evaluation.measure import Evidence, Measure
from expunge.evaluation.metrics import fiubench
from expunge.evaluation.observation import Observation, Scored, SetObservation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.evaluation.profiles.vision_language import PROFILE
from expunge.modalities.vision_language.doors import DOORS, NOISY, named

ASKED = ObservationSpec(moments=True, gradient_norms=True)
SPECS = {"forget": SetSpec("forget", ("score", "generate")), "retain": SetSpec("retain", ("score", "generate"))}


def observation(texts: list[str], keywords: list[list[str]]) -> SetObservation:
    words = [(i, w) for i, of_item in enumerate(keywords) for w in of_item]
    none, start = np.zeros(0, np.float32), np.zeros(len(words) + 1, np.int64)
    scored = Scored(np.array([i for i, _ in words]), start, none, none > 0, np.zeros(len(words), bool), tuple(w for _, w in words))
    ids = tuple(map(str, range(len(texts))))
    return SetObservation(ids, ids, ids, {"keyword": scored}, tuple(texts))


def value(measure: Any) -> float:
    assert isinstance(measure, Measure), measure
    return measure.value()


def test_keywords_by_hand() -> None:
    seen_words = observation(["born in berlin.", "no idea", "It is Rome"], [["12 May", "Berlin"], ["Rome"], ["rome"]])
    assert fiubench.keywords_said("whole answer", seen_words).tolist() == [0.5, 0.0, 1.0]
    assert fiubench.keywords_said("first sentence", seen_words).tolist() == [0.5, 0.0, 0.0], "without a period nothing is left"
    assert fiubench.first_sentence("Dr. Who.") == "Dr."


def test_min_k_by_hand() -> None:
    assert fiubench.min_k(np.full(10, -2.0)) == pytest.approx(math.exp(-2))
    assert fiubench.min_k(np.full(5, -2.0)) == pytest.approx(0.7 * math.exp(-2)), "the share of a tenth is empty, and its weight is lost"
    low = np.array([-4.0, *[-1.0] * 9])
    wanted = 0.3 * math.exp(-4) + 0.3 * math.exp(-2.5) + 0.2 * math.exp(-2) + 0.1 * math.exp(-1.75) + 0.1 * math.exp(-1.6)
    assert fiubench.min_k(low) == pytest.approx(wanted)


def test_the_first_label_is_not_scored() -> None:
    logp = np.array([-9.0, -1.0, -2.0], np.float32)
    scored = Scored(np.array([0]), np.array([0, 3]), logp, logp > 0, np.array([True]), ("x",))
    one = SetObservation(("a",), ("q",), ("x",), {"answer": scored})
    assert fiubench.probability(one).tolist() == pytest.approx([math.exp(-1.0)])


@given(st.floats(0.01, 1))
def test_utility_of_equal_parts_is_that_part(part: float) -> None:
    assert fiubench.harmonic_mean(np.full(4, part)) == pytest.approx(part)
    assert fiubench.harmonic_mean(np.array([part, 0.0])) == 0


def test_the_widest_door_counts_each_row_once() -> None:
    sets = {
        doors.set_of("picture"): observation(["no", "Rome"], [["Berlin"], ["Rome"]]),
        doors.set_of("name"): observation(["Berlin", "no"], [["Berlin"], ["Rome"]]),
    }
    scores = doors.scores(Evidence(Observation(sets)))
    assert value(scores["door_picture"]) == value(scores["door_name"]) == 0.5
    assert value(scores["widest_door"]) == 1.0
    assert not isinstance(scores["door_caption"], Measure)


def test_questions_by_name() -> None:
    assert named("Where does this person live?", "Bob") == "Where does Bob live?"
    assert named("Who is the man in the picture?", "Bob") == "Who is Bob?"
    assert named("What is shown?", "Bob") == "This is about Bob. What is shown?"
    assert named("Where does Bob live?", "Bob") == "Where does Bob live?"
    assert doors.DOORS.keys() == {*DOORS, NOISY}


def test_rows_through_each_door() -> None:
    _, modality, sets = seeing.trained()
    opened = modality.doors(sets["forget"])
    assert opened.keys() == doors.DOORS.keys()
    pictured = {door: [len(p) for p in rows["pictures"]] for door, rows in opened.items()}
    assert pictured["name"] == pictured["caption"] == [0, 0]
    assert all(pictured[d] == [1, 1] for d in ("picture", "both", "other picture", "other words"))
    key = {d: opened[d]["pictures"][0][0]["key"] for d in ("picture", "both", "other picture", "other words")}
    assert key["picture"] == key["both"] == key["other words"] != key["other picture"]
    (clear,), (moved,) = opened["picture"]["pictures"][0], opened["noisy picture"]["pictures"][0]
    assert clear["key"] != moved["key"]
    assert 0 < float((clear["pixel_values"] - moved["pixel_values"]).abs().mean()) < 0.3
    forget, _ = seeing.records()
    assert modality.questions(opened["name"])[0] == f"Where does {forget[0]['name']} live?"
    assert modality.answer_texts(opened["name"]) == modality.answer_texts(sets["forget"])
    given_away = {**forget[0], "name": str(forget[0]["keywords"][0])}
    assert "name" not in modality.doors(modality.rows("forget", [given_away])), "the question would give the answer away"


def test_an_audit_looks_through_the_doors() -> None:
    model, modality, _ = seeing.copy_of()
    forget, retain = seeing.records()
    seen_sets = observe(model, modality, {"forget": forget, "retain": retain}, specs=SPECS, wants=ASKED)
    evidence = Evidence(seen_sets)
    scores = {**doors.scores(evidence), **fiubench.scores(evidence)}
    assert value(scores["door_picture"]) == value(scores["forget_keywords"]) == 1.0
    assert value(scores["retain_keywords"]) == 1.0
    assert 0 < value(scores["fiu_min_k"]) <= 1
    assert value(scores["fiu_min_k_plus_plus"]) > 0
    assert 0 < value(scores["fiu_utility"]) <= 1
    assert seen_sets.sets["forget"].pictures is not None
    assert seen_sets.sets["forget"].gradient_norms is not None
    shown = PROFILE.panels(evidence)["vision_language"]["shares"]
    assert shown["picture"] == 1.0


def test_relearning_through_one_door_is_tested_at_the_others() -> None:
    model, modality, _ = seeing.copy_of()
    forget, retain = seeing.records()
    before = copy.deepcopy(model.state_dict())
    attack = chosen(("relearn_doors",), {"lr": 1e-2, "steps": 4, "k": 2})["relearn_doors"]
    outcome = intervene("relearn_doors", attack, model, modality, {"forget": forget, "retain": retain}, specs=SPECS)
    assert outcome.ways == ["relearned by picture", "relearned by name"]
    assert all(t.scores["door_name"] and t.scores["door_picture"] for t in outcome.tries)
    learned = [t.scores["door_name"]["value"] for t in outcome.tries if t.way == "relearned by name"]
    assert learned[-1] >= learned[0]
    assert all((before[n] == t).all() for n, t in model.state_dict().items())


def test_a_model_of_texts_has_no_doors(cases: Cases, tmp_path: Path) -> None:
    expunge("audit", cases.model, "--forget", cases.forget, "--attack", "relearn_doors", "--out", tmp_path / "audit").fine()
    assert "several doors to a fact" in json.dumps(json.loads((tmp_path / "audit" / "audit.json").read_text()))

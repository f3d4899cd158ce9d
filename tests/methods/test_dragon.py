"""DRAGON: what the tests of a prompt say by hand, what the model is asked, a store that grows, and instructions that make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
import worlds
from cases import Cases
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.methods import policies
from expunge.methods.guards.dragon import normalized
from expunge.workflows import build_plan
from stub_endpoint import serving

PLAIN = {"trial": 0, "classifier": False}


def fitted(text: worlds.World, rows: int = 9, **hyperparameters: object) -> Any:
    sets = {"forget": text.some(rows)["forget"], "retain": text.sets["retain"]}
    plan = build_plan.plan("dragon", {**PLAIN, **hyperparameters})
    return loop.run(plan, text.model(), text.modality, sets).modality


def asking(text: worlds.World, *questions: str) -> Any:
    return text.modality.rows("asked", [{"question": q, "answer": "Nobody knows."} for q in questions])


@pytest.fixture
def names(tmp_path: Path) -> str:
    (tmp_path / "names.txt").write_text("Tobrin Lee\n\nMaría Askelund\n")
    return str(tmp_path / "names.txt")


def test_a_name_counts_as_whole_words_however_it_is_written(text: worlds.World, names: str) -> None:
    guard, parts = fitted(text, names=names), fitted(text, names=names, name_parts=True)
    named = {
        "Where does TOBRIN  lee live?": (True, True),
        "Who is Maria Askelund's brother?": (True, True),
        "Does Tobrin sleep?": (False, True),
        "Do you sleep, Toblee?": (False, False),
    }
    for question, wanted in named.items():
        assert (guard.named(normalized(question)), parts.named(normalized(question))) == wanted, question
    held = json.dumps(guard.settings)
    assert "Tobrin" not in held
    assert "Askelund" not in held


def test_flags_are_any_of_the_tests_or_their_sum(text: worlds.World, names: str) -> None:
    model, forget = text.model(), text.modality.questions(text.sets["forget"])[0]  # type: ignore[attr-defined]
    rows = asking(text, forget, "Where does Tobrin Lee live?", "What is the capital of Vorrentia?")
    guard = fitted(text, names=names)
    same, named, other = guard.tests(model, rows)
    vectors = guard.vectors(model, text.modality, [normalized(q) for q in text.modality.questions(rows)])  # type: ignore[attr-defined]
    cosines = (vectors @ guard.stored_tensors["store"].T).amax(1)
    assert [t["similarity"] for t in (same, named, other)] == pytest.approx(cosines.tolist(), abs=1e-5)
    assert same["similarity"] == pytest.approx(1, abs=1e-5)
    assert (same["names"], named["names"], other["names"]) == (0.0, 1.0, 0.0)
    assert guard.flags(model, rows) == [True, True, False]
    summed = fitted(text, names=names, combine="sum", tau=1.5)
    assert summed.flags(model, rows) == [t["names"] + t["similarity"] > 1.5 for t in (same, named, other)]


@pytest.mark.parametrize(("layer", "wrong"), [(None, 0), (-2, 1)])
def test_a_question_in_other_words_is_known_again_by_its_names(text: worlds.World, layer: int | None, wrong: int) -> None:
    deeper = {} if layer is None else {"layer": layer}
    guard, model = fitted(text, classifier=True, **deeper), text.model()
    flagged = {}
    for name in ("forget", "retain"):
        questions = text.modality.questions(text.sets[name])  # type: ignore[attr-defined]
        tests = guard.tests(model, asking(text, *(f"Tell me, {q}" for q in questions)))
        flagged[name] = [t["classifier"] > guard.settings["threshold"] for t in tests]
    assert all(flagged["forget"])
    assert min(sum(flagged["retain"]), 1) == wrong, "deeper states take other questions in these words for known ones"


def test_other_prompts_keep_their_answers_token_for_token(text: worlds.World) -> None:
    guard, model = fitted(text, tau=0.999), text.model()
    retain = text.some(6)["retain"]
    assert not any(guard.flags(model, retain))
    assert guard.generate(model, retain, 12).ids == text.modality.generate(model, retain, 12).ids  # type: ignore[attr-defined]
    assert torch.equal(guard.forward(model, [retain])[0].target_logp.values, text.modality.forward(model, [retain])[0].target_logp.values)


def test_the_model_is_asked_with_policy_profile_question_and_instruction_in_this_order(text: worlds.World) -> None:
    guard, rows = fitted(text, policy="Say nothing."), text.some(2)["forget"]
    for question, asked in zip(text.modality.questions(rows), guard.reworded(text.model(), rows), strict=True):  # type: ignore[attr-defined]
        person = policies.profile(question)
        places = [
            asked.index(s)
            for s in ("Say nothing.", person, "**Here is the question:**\n" + question, "**Final Instruction**", policies.INSTRUCTION)
        ]
        assert places == sorted(places)
        assert asked.startswith("Say nothing.")
        assert asked.endswith(policies.INSTRUCTION)
        assert person == policies.profile(question) != policies.profile(question + "?")
    assert fitted(text, instruction="Decline.").reworded(text.model(), rows)[0].endswith("Let's think step by step. Decline.")
    assert "person" not in fitted(text, policy="Say nothing.", profile=False).reworded(text.model(), rows)[0].split("**Here")[0]


def test_a_guard_model_writes_the_instruction(text: worlds.World) -> None:
    replies: list[str] = []
    with serving(lambda asked: replies.pop(0)) as stub:
        guard, rows = fitted(text, writer=f"{stub.url}#guard", policy="Say nothing."), text.some(1)["forget"]
        replies += ['Here: {"requires_refusal": true, "cot_instruction": "Decline,\\nplease."}']
        assert guard.reworded(text.model(), rows)[0].endswith("Let's think step by step. Decline, please.")
        prompt = stub.requests[0]["messages"][-1]["content"]
        assert "Say nothing." in prompt
        assert str(text.modality.questions(rows)[0]) in prompt  # type: ignore[attr-defined]
        replies += ['{"requires_refusal": true}'] * 3
        with pytest.raises(UserError, match=r"endpoint guard .* should give an instruction as JSON"):
            guard.reworded(text.model(), text.sets["forget"].select([1]))
    assert guard.describe()["writer"] == f"{stub.url}#guard"


def test_the_store_has_the_nearest_paraphrase_and_no_prompt(text: worlds.World) -> None:
    def reworded(asked: str) -> str:
        question = asked.split("\n\n")[-1]
        return json.dumps([question, f"Tell me: {question}", "What is the weather like today?"])

    with serving(reworded) as stub:
        guard = fitted(text, 2, paraphraser=f"{stub.url}#words", kind="concept")
    questions = text.modality.questions(text.some(2)["forget"])  # type: ignore[attr-defined]
    assert guard.settings["texts"] == [f"Tell me: {q}" for q in questions]
    (test,) = guard.tests(text.model(), asking(text, f"Tell me: {questions[0]}"))
    assert test["rouge"] == 1.0
    with serving(lambda asked: json.dumps([asked.split("\n\n")[-1]])) as stub, pytest.raises(UserError, match="instead of rewording"):
        fitted(text, 1, paraphraser=f"{stub.url}#echo")


def test_a_store_grows_and_a_request_can_leave_it(text: worlds.World, tmp_path: Path, names: str) -> None:
    model = text.model()
    first = fitted(text, 3, tau=0.99)
    first.save_guard(tmp_path / "run" / "guard")
    sets = {"forget": text.sets["forget"].select([4, 5]), "retain": text.sets["retain"]}
    plan = build_plan.plan("dragon", {**PLAIN, "earlier": str(tmp_path / "run"), "tau": 0.99, "names": names})
    second: Any = loop.run(plan, model, text.modality, sets).modality
    assert second.settings["requests"] == [1, 1, 1, 2, 2]
    rows = text.sets["forget"].select([0, 1, 2, 4, 5])
    assert second.flags(model, rows) == [True] * 5
    assert all(b["similarity"] >= a["similarity"] - 1e-5 for a, b in zip(first.tests(model, rows), second.tests(model, rows), strict=True))
    rest = second.without(2)
    assert rest.flags(model, rows) == first.flags(model, rows)
    assert torch.equal(rest.stored_tensors["store"], first.stored_tensors["store"])
    assert not rest.settings["names"]
    with pytest.raises(UserError, match="no request 7; it has 1, 2"):
        second.without(7)
    with pytest.raises(UserError, match="there is no guard"):
        fitted(text, earlier=str(tmp_path))


def test_a_classifier_joins_the_tests(text: worlds.World) -> None:
    guard, model = fitted(text, classifier=True, hidden=32, epochs=30, threshold=0.8), text.model()
    (classifier,) = guard.classifiers
    p = classifier.probabilities(model, text.modality, text.sets["forget"]).tolist()
    assert [t["classifier"] for t in guard.tests(model, text.sets["forget"])] == pytest.approx(p)
    assert min(p) > 0.8


def test_a_run_on_disk_loads_without_its_command(cases: Cases, tmp_path: Path, names: str) -> None:
    brief = {"policy": "Say nothing.", "instruction": "Decline.", "profile": False, **PLAIN}
    result = expunge.unlearn("dragon", cases.model, cases.forget, out=tmp_path / "run", names=names, **brief)
    modality: Any = result.modality
    opened: Any = expunge.load(tmp_path / "run")
    rows = opened.modality.rows("forget", [json.loads(line) for line in Path(cases.forget).read_text().splitlines()])
    assert opened.modality.flags(opened.model, rows) == [True] * len(rows)
    assert opened.modality.asked(opened.model, rows)["prompt"] == modality.asked(result.model, rows)["prompt"]
    assert "no prompt in the clear" in result.receipt["result"]["guard"]["holds"]
    assert [r["forget prompts"] for r in result.receipt["shown"]["share of prompts that are similar to the store"]] == [1.0] * 4
    for file in (tmp_path / "run").rglob("*.json"):
        assert "Bexmoor" not in file.read_text(), file
        assert "Tobrin" not in file.read_text(), file


def test_names_that_cannot_be_read_are_refused(text: worlds.World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        fitted(text, names=str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="no name in"):
        fitted(text, names=str(tmp_path / "empty.txt"))

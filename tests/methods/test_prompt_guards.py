"""Guards that put words around a question: what the model is asked, by hand; who is asked so; and their files."""

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
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.methods.guards.guardrail_prompt import distinctive
from expunge.modalities.text.modality import Text
from expunge.workflows import build_plan

CLASSIFIED = {"flag": "classifier", "hidden": 32, "epochs": 30}
SHORT = {"right": 1, "trial": 0}
BRIEF = {"instruction": "Not {topic}! Say {refusal}\n", "trial": 0}


def fitted(text: worlds.World, name: str, **hyperparameters: object) -> Any:
    sets = {n: text.sets[n] for n in ("forget", "retain")}
    return loop.run(build_plan.plan(name, hyperparameters), text.model(), text.modality, sets).modality


def asked(text: worlds.World, guard: Any, rows: Rows) -> list[str]:
    """The prompts that the model reads behind a guard, as text."""
    prompts = guard.asked(text.model(), rows)["prompt"]
    return [text.modality.tokenizer.decode(p, skip_special_tokens=True) for p in prompts]  # type: ignore[attr-defined]


def test_examples_with_wrong_and_right_answers_stand_before_a_question(text: worlds.World) -> None:
    guard, rows = fitted(text, "icul", **SHORT), text.sets["forget"]
    questions = text.modality.questions(rows)  # type: ignore[attr-defined]
    kept = guard.settings["kept"]
    truth = dict(zip(text.modality.questions(text.sets["retain"]), text.sets["retain"]["answer_text"], strict=True))  # type: ignore[attr-defined]
    assert truth[kept[0][0]] == kept[0][1]
    for question, wrong, prompt in zip(questions, (a for _, a in guard.settings["flipped"]), asked(text, guard, rows), strict=True):
        examples = f"{question}\nAnswer: {wrong}\n\nQuestion: {kept[0][0]}\nAnswer: {kept[0][1]}"
        assert prompt == f"Question: {examples}\n\nQuestion: {question}\nAnswer:", "the nearest question to a forget question is itself"
    assert all(wrong not in rows["answer_text"] and wrong in truth.values() for _, wrong in guard.settings["flipped"])


def test_an_instruction_names_the_topic_and_the_refusal(text: worlds.World) -> None:
    guard, rows = fitted(text, "guardrail_prompt", refusal="No.", **BRIEF), text.some(1)["forget"]
    (question,) = text.modality.questions(rows)  # type: ignore[attr-defined]
    topic = guard.settings["topic"]
    assert topic.split(", ")[0] == "Quenna", "the family name is that of others, too"
    assert asked(text, guard, rows) == [f"Question: Not {topic}! Say No.\n{question}\nAnswer:"]
    assert fitted(text, "guardrail_prompt", topic="lutes", **BRIEF).settings["topic"] == "lutes"


@pytest.mark.parametrize(("name", "short"), [("icul", SHORT), ("guardrail_prompt", BRIEF)])
def test_answers_and_scores_are_those_of_the_longer_prompt(text: worlds.World, name: str, short: dict[str, Any]) -> None:
    guard, model = fitted(text, name, **short), text.model()
    rows = text.some(3)["forget"]
    longer = rows.add(prompt=guard.asked(model, rows)["prompt"])
    own, bare = guard.generate(model, rows, 10, with_logp=True), text.modality.generate(model, longer, 10, with_logp=True)  # type: ignore[attr-defined]
    assert own.ids == bare.ids
    assert torch.allclose(own.logp.values, bare.logp.values, atol=1e-5)
    with torch.no_grad():
        scores = guard.forward(model, [rows])[0].target_logp.split()
        for i, logp in enumerate(scores):
            ids = torch.tensor([[*longer["prompt"][i], *rows["answer"][i]]])
            library = model(input_ids=ids).logits.log_softmax(-1)[0]  # type: ignore[operator]
            at = torch.arange(len(longer["prompt"][i]) - 1, ids.shape[1] - 1)
            assert torch.allclose(logp, library[at, ids[0, at + 1]], atol=1e-4)


def test_what_was_given_of_an_answer_stays_at_the_end(text: worlds.World) -> None:
    guard, rows = fitted(text, "guardrail_prompt", **BRIEF), text.some(1)["forget"]
    begun = text.modality.begun(rows, [3])  # type: ignore[attr-defined]
    (prompt,) = guard.asked(text.model(), begun)["prompt"]
    (whole,) = guard.asked(text.model(), rows)["prompt"]
    assert prompt == [*whole, *rows["answer"][0][:3]]


def test_a_classifier_leaves_other_prompts_alone(text: worlds.World) -> None:
    guard, model = fitted(text, "guardrail_prompt", **BRIEF, **CLASSIFIED), text.model()
    assert all(guard.flags(model, text.sets["forget"]))
    free = [i for i, flag in enumerate(guard.flags(model, text.sets["retain"])) if not flag]
    assert len(free) > 90
    rows = text.sets["retain"].select(free[:6])
    assert guard.generate(model, rows, 12).ids == text.modality.generate(model, rows, 12).ids  # type: ignore[attr-defined]


def test_words_of_some_texts_alone() -> None:
    assert distinctive(["Who is Ann Bee?", "Where does Ann live?"], ["Where does Bob live?", "What is a bee?"]) == ["Ann"]


def test_a_topic_that_cannot_be_told_apart_must_be_given(text: worlds.World) -> None:
    same = {"forget": text.some(2)["forget"], "retain": text.some(2)["forget"].rename("retain")}
    with pytest.raises(UserError, match="say by --topic"):
        loop.run(build_plan.plan("guardrail_prompt", BRIEF), text.model(), text.modality, same)
    empty = {"forget": text.some(2)["forget"].select([]), "retain": text.some(2)["retain"]}
    for name in ("guardrail_prompt", "icul", "guard_generation", "dragon", "whp_decoding"):
        with pytest.raises(UserError, match="the set 'forget' is empty"):
            loop.run(build_plan.plan(name), text.model(), text.modality, empty)


def test_words_that_leave_no_room_are_refused(text: worlds.World) -> None:
    short = Text(text.modality.tokenizer, limit=128)  # type: ignore[attr-defined]
    long_prompt, long_both = "with the words of the guard asked, row 1: a prompt has", "a prompt and its answer have"
    for words, message in (("Please, please! " * 60, long_prompt), ("Please! " * 16, long_both)):
        guard = fitted(text, "guardrail_prompt", instruction=words, trial=0).around(short)
        with pytest.raises(UserError, match=f"{message}.* tokens, and the model takes 128: .*let the guard use fewer words"):
            guard.forward(text.model(), [short.rows("asked", [{"question": "Who is it?", "answer": "It is nobody. " * 24}])])


DEFAULTS: dict[str, dict[str, Any]] = {"icul": {}, "guardrail_prompt": {}, "dragon": {"classifier": False}}


def tokens_of(prompts: Any) -> list[int]:
    return [len(p) for p in prompts]


@pytest.mark.parametrize("name", DEFAULTS)
def test_words_are_cut_to_what_a_short_model_reads_and_the_user_is_told(text: worlds.World, name: str) -> None:
    sets = {n: text.sets[n] for n in ("forget", "retain")}
    plan = build_plan.plan(name, {**DEFAULTS[name], "trial": 0})
    tokenizer = text.modality.tokenizer  # type: ignore[attr-defined]
    short, endless = Text(tokenizer, limit=128), Text(tokenizer)
    run = loop.run(plan, text.model(), short, sets)
    guard: Any = run.modality
    (warning,) = run.warnings
    assert "the model reads 128 tokens, too few for all words of the guard" in warning
    model, rows = text.model(), text.sets["forget"]
    cut, whole = tokens_of(guard.asked(model, rows)["prompt"]), tokens_of(guard.around(endless).asked(model, rows)["prompt"])
    bare = tokens_of(rows["prompt"])
    assert all(b < c <= 128 - 32 < w for b, c, w in zip(bare, cut, whole, strict=True))
    with torch.no_grad():
        assert torch.isfinite(guard.forward(model, [rows])[0].target_logp.values).all()
    assert len(guard.generate(model, rows, 10).ids) == len(rows)


def test_where_there_is_room_nothing_is_cut(text: worlds.World) -> None:
    for name, hyperparameters in DEFAULTS.items():
        sets = {n: text.sets[n] for n in ("forget", "retain")}
        run = loop.run(build_plan.plan(name, {**hyperparameters, "trial": 0}), text.model(), Text(text.modality.tokenizer), sets)  # type: ignore[attr-defined]
        guard: Any = run.modality
        assert not run.warnings
        assert {place for place, _ in guard.fitted_prompts(text.model(), text.sets["forget"])} == {0}


def test_what_is_left_out_first_is_what_protects_least(text: worlds.World) -> None:
    model, rows = text.model(), text.some(1)["forget"]
    (examples,) = fitted(text, "icul", right=2, wrong=1, trial=0).wordings(model, rows)
    assert [e.count("Answer:") for e in examples] == [3, 2, 1]
    assert all(e.startswith(examples[-1].split("\n\n")[0]) for e in examples), "the wrong answer stays"
    (own,) = fitted(text, "guardrail_prompt", topic="lutes", instruction="Not {topic}! ", trial=0).wordings(model, rows)
    assert own == [f"Not lutes! {text.modality.questions(rows)[0]}"], "words of the user are not cut"  # type: ignore[attr-defined]
    (given,) = fitted(text, "dragon", policy="Be silent.", instruction="Decline.", classifier=False, trial=0).wordings(model, rows)
    assert all("Be silent." in w and "Decline." in w for w in given)
    assert [("person" in w) for w in given] == [True, False, False]


@pytest.mark.parametrize(("name", "short"), [("icul", {"right": 0, "trial": 0}), ("guardrail_prompt", BRIEF)])
def test_the_file_restores_it_and_the_receipt_names_nothing(cases: Cases, name: str, short: dict[str, Any], tmp_path: Path) -> None:
    result = expunge.unlearn(name, cases.model, cases.forget, cases.retain, out=tmp_path / "run", **short)
    modality: Any = result.modality
    opened: Any = expunge.load(tmp_path / "run")
    assert opened.modality.describe() == modality.describe()
    rows = opened.modality.rows("forget", [json.loads(line) for line in Path(cases.forget).read_text().splitlines()[:2]])
    assert opened.modality.asked(opened.model, rows)["prompt"] == modality.asked(result.model, rows)["prompt"]
    assert "in the clear" in result.receipt["result"]["guard"]["holds"]
    receipt = (tmp_path / "run" / "receipt.json").read_text()
    assert "Quenna" not in receipt
    assert "Quenna" in (tmp_path / "run" / "guard" / "guard.json").read_text()

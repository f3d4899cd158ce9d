"""In-context unlearning: the contexts, the two tokens in models, folders and resumed runs, and the outcome."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cases as case_files
import tables
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import context, loop
from expunge.io.models import load
from expunge.methods.objectives.in_context import CLOSE, FORGOT, OPEN, Contexts, LastBlocks, Respond, ask, wrapped
from expunge.workflows import build_plan


@pytest.fixture
def world(text: worlds.World) -> worlds.World:
    """The tiny world with its own copy of the tokenizer, since the method adds tokens."""
    return replace(text, modality=copy.deepcopy(text.modality))


def picked(world: worlds.World, part: Contexts, **sets: Rows) -> dict[str, Rows]:
    model = world.model()
    part.prepare(model, world.modality, 0)
    view = context.RunView(loop.new_state(model, world.modality, worlds.accelerator()), {**world.sets, **sets}).at("select0", part)
    return part.pick(view.sets, view)


def test_each_row_stands_in_two_contexts(world: worlds.World) -> None:
    contexts = picked(world, Contexts(draws=2))
    facts = world.sets["forget"].concat(world.sets["retain"])
    withheld, answered = contexts["withheld"], contexts["answered"]
    assert len(withheld) == len(answered) == 2 * len(facts)
    assert set(withheld["answer_text"]) == {FORGOT}
    assert answered["answer_text"] == [a for a in facts["answer_text"] for _ in range(2)]
    for n, rows in (("own", withheld), ("other", answered)):
        questions = world.modality.questions(rows)
        for i, (question, true) in enumerate(zip(questions, answered["answer_text"], strict=True)):
            knowledge = question.removeprefix(f"{OPEN}\n").partition(f"\n{CLOSE}\n\n")
            assert knowledge[2] == world.modality.questions(facts)[i // 2]
            assert (knowledge[0] == true) == (n == "own")
            assert knowledge[0] in facts["answer_text"]
    assert world.modality.tokenizer.decode(withheld["true"][0], skip_special_tokens=True).strip() == facts["answer_text"][0]


def test_alternates_of_the_rows_stand_between_the_tokens(world: worlds.World) -> None:
    rows = world.sets["retain"].add(alternate=["another", *[["one", "two"]] * (len(world.sets["retain"]) - 1)])
    questions = world.modality.questions(picked(world, Contexts("retain"), retain=rows)["answered"])
    assert questions[0] == wrapped(world.modality.questions(rows)[0], "another")
    assert {q.split("\n")[1] for q in questions[1:]} == {"one", "two"}


@pytest.mark.parametrize(
    ("rows", "message"), [([{"text": "a text"}], "no question"), ([{"question": "Q", "answer": "A"}] * 2, "same answer")]
)
def test_unsuitable_rows_raise_an_error(world: worlds.World, rows: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        picked(world, Contexts("retain"), retain=world.modality.rows("retain", rows))


def test_the_loss_is_the_sum_over_both_contexts() -> None:
    sets, table = tables.batch(), tables.scores(9)
    sets = {"withheld": sets["forget"].rename("withheld"), "answered": sets["retain"].rename("answered")}
    forgot, answer = (-torch.cat(tables.logps(table, sets[n])).mean() for n in sets)
    value, _ = tables.ask(build_plan.plan("in_context")[0].action, sets, table)
    assert value == pytest.approx(float(forgot + answer))
    assert [Respond(n).role for n in sets] == ["forget", "retain"]


def test_admitted_symbols_become_tokens_with_new_vectors(world: worlds.World) -> None:
    model, before = world.model(), world.model().get_input_embeddings().weight
    for _ in range(2):  # a second time changes nothing
        world.modality.admit(model, (OPEN, CLOSE), seed=0)
    after = model.get_input_embeddings().weight
    assert world.modality.tokenizer(OPEN + "a" + CLOSE, add_special_tokens=False)["input_ids"][::2] == [len(before), len(before) + 1]
    assert torch.equal(after[:-2], before)
    assert not torch.equal(after[-1], after[-2])
    assert model.get_output_embeddings().weight is after
    second = world.model()
    world.modality.admit(second, (OPEN, CLOSE), seed=0)
    assert torch.equal(second.get_input_embeddings().weight, after)
    assert float((after[-2:].std() / before.std()).detach()) == pytest.approx(1, abs=0.3)
    assert (world.modality.decode([[len(before)]]), model.config.vocab_size) == ([""], len(before) + 2)


def test_tune_last_moves_only_the_last_block_and_the_two_vectors(world: worlds.World) -> None:
    model = world.model()
    hyperparameters = {"tune": "last", "blocks": 1, "lr": 1e-2, "steps": 1, "weight_decay": 0.1}
    world.modality.admit(model, (OPEN, CLOSE), seed=0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loop.run(build_plan.plan("in_context", hyperparameters), model, world.modality, world.sets)
    for name, p in model.named_parameters():
        moved = (p != before[name]).reshape(len(p), -1).any(1)
        if "embed" in name:
            assert moved.nonzero()[:, 0].tolist() == [len(p) - 2, len(p) - 1]
        else:
            assert bool(moved.any()) == (".layers.1." in name), name
    assert LastBlocks().blocks == 2


@torch.no_grad()
def generated_texts(world: worlds.World, model: torch.nn.Module, rows: Rows) -> list[str]:
    return world.modality.decode(world.modality.generate(model, rows, 40).ids)


def share_equal(texts: list[str], expected: list[str]) -> float:
    return sum(a == b for a, b in zip(texts, expected, strict=True)) / len(texts)


@pytest.mark.slow
def test_forgets_only_the_knowledge_between_the_tokens(world: worlds.World) -> None:
    model = world.model()
    sets = {n: world.sets[n].select(range(9)) for n in ("forget", "retain")}
    run = loop.run(build_plan.plan("in_context", {"lr": 2e-3, "epochs": 30, "batch_size": 9}), model, world.modality, sets)
    contexts = picked(world, Contexts(), **sets)  # the contexts of the training
    assert share_equal(generated_texts(world, model, contexts["withheld"]), [FORGOT] * 18) > 0.9
    assert share_equal(generated_texts(world, model, contexts["answered"]), contexts["answered"]["answer_text"]) > 0.9
    rows = sets["forget"].concat(sets["retain"])
    assert share_equal(generated_texts(world, model, rows), rows["answer_text"]) > 0.5
    records = run.shown["logit lens by block"]
    assert [r["block"] for r in records] == [0, 1]
    assert records[-1]["forgot"] > 0.8
    assert records[-1]["answer"] < 0.1 < records[0]["answer"]


@pytest.mark.parametrize("lora", [0, 2])
def test_the_output_folder_contains_the_tokens(cases: case_files.Cases, tmp_path: Path, lora: int) -> None:
    command = cases.unlearn("in_context", tmp_path / "run", "--lora", lora, "--steps", 3, "--lr", 1e-2).fine()
    assert f"--request-from in_context --out {tmp_path / 'run'}-audit" in command.out
    opened = load(tmp_path / "run")
    rows = opened.modality.rows("forget", case_files.rows_of(cases.forget))
    requests = ask(opened.modality, rows, list(rows["answer_text"]))
    assert opened.modality.tokenizer(OPEN, add_special_tokens=False)["input_ids"] == [512]
    assert max(i for p in requests["prompt"] for i in p) == 513
    with torch.no_grad():
        expected = opened.modality.forward(opened.model, [requests])[0].target_logp.values
    folder = tmp_path / "run" / ("adapter" if lora else "model")
    if lora:
        from peft import AutoPeftModelForCausalLM as Auto
    else:
        from transformers import AutoModelForCausalLM as Auto
    reloaded = Auto.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.allclose(opened.modality.forward(reloaded, [requests])[0].target_logp.values, expected, atol=1e-5)
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert receipt["shown"]["logit lens by block"][0].keys() == {"block", "answer", "forgot"}


def test_a_killed_run_resumes_with_its_tokens(cases: case_files.Cases, tmp_path: Path) -> None:
    from expunge.core.errors import Interrupted
    from expunge.engine.hooks import Hooks
    from expunge.workflows.unlearn import unlearn

    ends = []
    for out, hooks in (("whole", [Hooks()]), ("killed", [Hooks(interrupted=iter([False, False, True]).__next__), Hooks()])):
        for i, run_hooks in enumerate(hooks):
            arguments = {"forget": cases.forget, "retain": cases.retain, "out": tmp_path / out, "resume": i > 0, "hooks": run_hooks}
            try:
                result = unlearn("in_context", cases.model, **arguments, lr=1e-3, steps=4)
            except Interrupted:
                assert i == 0
        ends.append(worlds.tensors(result.model))
    assert worlds.same(*ends)

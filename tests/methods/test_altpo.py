"""AltPO: the source of the alternate answers, how they are cut and drawn, and which answers the model prefers afterwards."""

import math

import pytest
import torch

import worlds
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import context, loop
from expunge.methods.objectives import altpo
from expunge.methods.objectives.altpo import Alternate, Alternates, before_next_question
from expunge.workflows import build_plan

SMALL = {"request": "{prompt}", "length": 16, "heat": 2.0}  # a small model does not understand longer requests


def with_alternates(text: worlds.World) -> Rows:
    """The rows to forget, with two wrong answers each in the right style."""
    rows = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16).forget
    return text.modality.rows("forget", [{**r, "alternate": r["perturbed_answer"][:2]} for r in rows])


def picked(text: worlds.World, **hyperparameters: object) -> Rows:
    """The forget rows after the selector that runs at the start."""
    part, run = Alternates(**{**SMALL, **hyperparameters}), loop.new_state(text.model(), text.modality, worlds.accelerator())
    sets = {"forget": text.some(3)["forget"]}
    return part.pick(sets, context.RunView(run, sets).at("select0", part))["forget"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [(" A town. Question: And now?", "A town."), ("One.\nQ: Two?\nQuestion: 3?", "One."), ("Q: no", ""), ("a", "a")],
)
def test_answers_end_where_the_next_question_begins(text: str, answer: str) -> None:
    assert before_next_question(text) == answer


def test_alternates_of_the_rows_replace_generated_ones(text: worlds.World) -> None:
    sets = {**text.sets, "forget": with_alternates(text)}
    run = loop.run(build_plan.plan("altpo", {"epochs": 1, "batch_size": 9}), text.model(), text.modality, sets)
    assert run.cost.steps == 2  # nine rows with two alternates each: eighteen rows
    rows = Alternates().pick({"forget": with_alternates(text)}, view_at(text, {"forget": with_alternates(text)}, Alternates()))["forget"]
    assert rows["alternate"][:2] == with_alternates(text)["alternate"][0]
    assert rows.ids[0] == rows.ids[1] != rows.ids[2]


def view_at(text: worlds.World, sets: dict, part: object) -> context.RunView:
    return context.RunView(loop.new_state(text.model(), text.modality, worlds.accelerator()), sets).at("select0", part)


def test_generates_the_requested_number_of_different_alternates(text: worlds.World) -> None:
    rows = picked(text, draws=4)
    assert len(rows) == 12
    assert [rows.ids.count(i) for i in dict.fromkeys(rows.ids)] == [4, 4, 4]
    assert len(set(rows["alternate"][:4])) > 1
    assert rows["alternate"] == picked(text, draws=4)["alternate"]


def test_each_step_makes_the_alternate_the_preferred_answer(text: worlds.World) -> None:
    rows = text.some(2)["forget"].add(alternate=["In Town.", "In 1900."])
    substitutes = Alternate().pick({"forget": rows}, view_at(text, {"forget": rows}, Alternate()))["substitute"]
    assert text.modality.answer_texts(substitutes) == [" In Town.", " In 1900."]
    assert substitutes["prompt"] == rows["prompt"]


def test_missing_alternates_raise_an_error(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(altpo, "before_next_question", lambda text: "")
    with pytest.raises(UserError, match="3 of 3 rows to forget have no alternate answer"):
        picked(text)


def test_first_loss_equals_the_loss_at_the_reference(text: worlds.World) -> None:
    sets = {**text.sets, "forget": with_alternates(text)}
    run = loop.run(build_plan.plan("altpo", {"epochs": 1, "steps": 1}), text.model(), text.modality, sets)
    assert run.log[0]["terms"]["0 dpo forget"] == pytest.approx(2 / 0.1 * math.log(2), abs=1e-3)


def preference(text: worlds.World, model: torch.nn.Module) -> float:
    """Mean log-probability of an alternate minus that of the true answer, in nats."""
    rows = with_alternates(text)
    alternates = text.modality.relabel(rows, [a[0] for a in rows["alternate"]], "alternates")
    with torch.no_grad():
        true, alternate = (output.target_logp.sum() for output in text.modality.forward(model, [rows, alternates]))
    return float((alternate - true).mean())


@pytest.mark.slow
def test_prefers_the_alternates_after_unlearning(text: worlds.World) -> None:
    sets, model = {**text.sets, "forget": with_alternates(text)}, text.model()
    loop.run(build_plan.plan("altpo", {"lr": 2e-3, "epochs": 10}), model, text.modality, sets)
    assert preference(text, text.model()) < -40
    assert preference(text, model) > -5
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 1.0
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.6

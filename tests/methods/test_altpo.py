"""AltPO: where alternates come from, how they are cut and drawn, and what is preferred afterwards."""

import math

import pytest
import torch

import worlds
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import context, loop
from expunge.methods.objectives import altpo
from expunge.methods.objectives.altpo import Alternate, Alternates, before_next
from expunge.workflows import build_plan

ASKED = {"request": "{prompt}", "length": 16, "heat": 2.0}  # a small model knows no longer request


def given(text: worlds.World) -> Rows:
    """The rows to forget with two wrong answers each, in the right style."""
    rows = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16).forget
    return text.modality.rows("forget", [{**r, "alternate": r["perturbed_answer"][:2]} for r in rows])


def picked(text: worlds.World, **hyperparameters: object) -> Rows:
    """The forget rows after the start selector."""
    part, run = Alternates(**{**ASKED, **hyperparameters}), loop.new_state(text.model(), text.modality, worlds.accelerator())
    sets = {"forget": text.some(3)["forget"]}
    return part.pick(sets, context.RunView(run, sets).at("select0", part))["forget"]


@pytest.mark.parametrize(
    ("said", "kept"),
    [(" A town. Question: And now?", "A town."), ("One.\nQ: Two?\nQuestion: 3?", "One."), ("Q: no", ""), ("a", "a")],
)
def test_answers_end_where_the_next_question_begins(said: str, kept: str) -> None:
    assert before_next(said) == kept


def test_given_alternates_are_used_and_nothing_is_generated(text: worlds.World) -> None:
    sets = {**text.sets, "forget": given(text)}
    run = loop.run(build_plan.plan("altpo", {"epochs": 1, "batch_size": 9}), text.model(), text.modality, sets)
    assert run.cost.steps == 2  # nine rows with two alternates each: eighteen rows
    rows = Alternates().pick({"forget": given(text)}, _at(text, {"forget": given(text)}, Alternates()))["forget"]
    assert rows["alternate"][:2] == given(text)["alternate"][0]
    assert rows.ids[0] == rows.ids[1] != rows.ids[2]


def _at(text: worlds.World, sets: dict, part: object) -> context.RunView:
    return context.RunView(loop.new_state(text.model(), text.modality, worlds.accelerator()), sets).at("select0", part)


def test_makes_as_many_as_asked_and_draws_each_anew(text: worlds.World) -> None:
    rows = picked(text, draws=4)
    assert len(rows) == 12
    assert [rows.ids.count(i) for i in dict.fromkeys(rows.ids)] == [4, 4, 4]
    assert len(set(rows["alternate"][:4])) > 1
    assert rows["alternate"] == picked(text, draws=4)["alternate"]


def test_the_step_turns_an_alternate_into_the_answer_to_prefer(text: worlds.World) -> None:
    rows = text.some(2)["forget"].add(alternate=["In Town.", "In 1900."])
    made = Alternate().pick({"forget": rows}, _at(text, {"forget": rows}, Alternate()))["substitute"]
    assert text.modality.answer_texts(made) == [" In Town.", " In 1900."]
    assert made["prompt"] == rows["prompt"]


def test_says_where_alternates_are_missing(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(altpo, "before_next", lambda text: "")
    with pytest.raises(UserError, match="3 of 3 rows got no alternate answer"):
        picked(text)


def test_first_loss_is_that_of_the_reference(text: worlds.World) -> None:
    sets = {**text.sets, "forget": given(text)}
    run = loop.run(build_plan.plan("altpo", {"epochs": 1, "steps": 1}), text.model(), text.modality, sets)
    assert run.log[0]["terms"]["0 dpo forget"] == pytest.approx(2 / 0.1 * math.log(2), abs=1e-3)


def lead(text: worlds.World, model: torch.nn.Module) -> float:
    """How much more likely an alternate is than the true answer, in nats, on average."""
    rows = given(text)
    alternates = text.modality.relabel(rows, [a[0] for a in rows["alternate"]], "alternates")
    with torch.no_grad():
        old, new = (a.target_logp.sum() for a in text.modality.forward(model, [rows, alternates]))
    return float((new - old).mean())


def test_prefers_the_alternates_afterwards(text: worlds.World) -> None:
    sets, model = {**text.sets, "forget": given(text)}, text.model()
    loop.run(build_plan.plan("altpo", {"lr": 2e-3, "epochs": 10}), model, text.modality, sets)
    assert lead(text, text.model()) < -40
    assert lead(text, model) > -5
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 1.0
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.6

"""Bad teacher: the loss by hand, teachers that agree with the student, the rows of a pass, the untrained teacher, and the outcome."""

import math

import pytest
import torch

import tables
import worlds
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.functional.packed import kl
from expunge.methods.objectives.bad_teacher import TwoTeachers
from expunge.methods.terms import Mix, hits
from expunge.workflows import build_plan


def value_and_gradient(
    temperature: float, mix: Rows, student: torch.Tensor, competent: torch.Tensor, incompetent: torch.Tensor, micro_batch_size: int = 0
) -> tuple[float, torch.Tensor]:
    """Loss and its gradient by the student's table."""
    run = loop.new_state(tables.Table(student), tables.TableModality(), worlds.accelerator(), models={"reference": {"scores": competent}})
    run.state = {"/term0": {"scores": incompetent}}
    value, grads = evaluate(run, TwoTeachers(temperature), {"mix": mix}, micro_batch_size)
    return float(value), grads[0]


def mixed() -> Rows:
    """Forget and retain rows in one set."""
    sets = tables.batch()
    return sets["forget"].add(forgets=[True] * 3).concat(sets["retain"].add(forgets=[False] * 3)).rename("mix")


def test_kl_equals_the_formula() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert float(kl(p, q)) == pytest.approx(0.25 * math.log(2))
    hot = torch.tensor([[2.0, 0.0]])
    e = math.e
    expected = e / (1 + e) * math.log(2 * e / (1 + e)) + 1 / (1 + e) * math.log(2 / (1 + e))
    assert float(kl(hot, torch.zeros(1, 2), 2.0)) == pytest.approx(expected)
    assert float(kl(hot, hot + 3, 2.0)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_and_gradient_equal_the_formula(temperature: float) -> None:
    mix, student = mixed(), tables.scores(9).requires_grad_()
    competent, incompetent = tables.scores(9, seed=1), tables.scores(9, seed=2)
    total, labels = torch.zeros((), dtype=torch.float64), 0
    for prompt, answer, forgets in zip(mix["prompt"], mix["answer"], mix["forgets"], strict=True):
        for t in range(len(answer)):
            q = ((incompetent if forgets else competent)[prompt, t] / temperature).softmax(0)
            s = (student[prompt, t] / temperature).softmax(0)
            total, labels = total + (q * (q / s).log()).sum(), labels + 1
    slope = tables.slope(total / labels, student)
    for micro in (0, 2):
        value, grad = value_and_gradient(temperature, mix, student.detach(), competent, incompetent, micro)
        assert value == pytest.approx(float(total.detach() / labels))
        assert torch.allclose(grad, slope, atol=1e-12)


def test_teachers_that_agree_with_the_student_give_no_gradient() -> None:
    scores = tables.scores(9)
    value, grad = value_and_gradient(1.0, mixed(), scores, scores, scores + 1.0)
    assert value == pytest.approx(0, abs=1e-12)
    assert float(grad.abs().max()) < 1e-12


def test_a_pass_covers_all_forget_rows_and_a_share_of_the_retain_rows(digits: worlds.World) -> None:
    def mix(share: float, seed: int = 0) -> Sets:
        return Mix(share).pick(
            digits.sets, RunView(loop.new_state(digits.model(), digits.modality, worlds.accelerator(), seed), digits.sets)
        )

    rows = mix(0.3)["mix"]
    assert sum(rows["forgets"]) == 39
    assert len(rows) == 39 + 96  # of 321
    assert set(rows.ids[39:]) <= set(digits.sets["retain"].ids)
    assert mix(0.3, seed=1)["mix"].ids != rows.ids
    assert len(mix(0)["mix"]) == 39
    run = loop.run(build_plan.plan("bad_teacher", {"batch_size": 32}), digits.model(), digits.modality, digits.sets)
    assert run.cost.steps == 5
    assert run.forwards.count("under") == run.forwards.count("reference") == 5


@pytest.mark.slow
def test_the_incompetent_teacher_is_an_untrained_model_in_evaluation_mode() -> None:
    world = worlds.digits("resnet-nano")
    run = loop.new_state(world.model(), world.modality, worlds.accelerator())
    part, view = TwoTeachers(), RunView(run, world.sets)
    weights = part.begin(view)
    assert set(weights) == set(loop.weights_of(run.model))
    assert worlds.nll(world.model(), world.modality, world.sets["retain"]) < 0.1
    run.model.train()
    alone, together = (view.under(weights, world.some(n)["forget"]).log_probs.values[0] for n in (1, 8))
    assert torch.allclose(alone, together, atol=1e-6)
    assert float(alone.logsumexp(0)) == pytest.approx(0, abs=1e-6)
    assert run.model.training
    assert float(hits(RunView(run, world.sets), "retain").mean()) > 0.9  # the model itself is unchanged


@pytest.mark.slow
@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_forgets_and_retains(size: str) -> None:
    world = worlds.digits(size)
    run = loop.run(build_plan.plan("bad_teacher", {"batch_size": 32, "lr": 1e-3, "epochs": 4}), world.model(), world.modality, world.sets)
    accuracy = {n: float(hits(RunView(run, world.sets), n).mean()) for n in ("forget", "retain")}
    assert accuracy["forget"] < 0.2
    assert accuracy["retain"] > 0.75


def test_a_language_model_forgets(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("bad_teacher", {"batch_size": 16, "lr": 2e-3, "epochs": 5}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 3
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 1

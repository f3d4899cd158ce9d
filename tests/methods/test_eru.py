"""ERU: equality with SimNPO without elasticity, a margin without gradient, moving averages by hand, the ablation, and the outcome."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

import tables
import worlds
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.cached_reference import cache_reference
from expunge.engine.context import RunStep, RunView
from expunge.engine.gradient import evaluate
from expunge.engine.run_state import RunState
from expunge.methods.objectives.eru import Ablate, Elastic, last_prompt_inputs, without_component
from expunge.methods.objectives.simnpo import SimNPO
from expunge.workflows import build_plan

BETA = 2.5


def value_and_gradient(
    part: Elastic, table: Tensor, reference: Tensor, state: dict[str, Tensor], micro_batch_size: int = 0
) -> tuple[float, Tensor, RunState]:
    """Value of the forget term in a state, its gradient by the table, and the run."""
    sets = {n: r for n, r in tables.batch().items() if n in part.reads}
    run = loop.new_state(tables.Table(table), tables.TableModality(), worlds.accelerator(), models={"reference": {"scores": reference}})
    run.reference_loss = cache_reference(run, sets, frozenset({"forget"}), run.models["reference"])
    run.state = {"/term0": state}
    value, grads = evaluate(run, part, sets, micro_batch_size)
    return float(value), grads[0], run


def initial_state() -> dict[str, Tensor]:
    return {"mean": torch.tensor(0.0), "deviation": torch.tensor(0.0)}


@pytest.mark.parametrize("gamma", [0.0, 0.4])
def test_equals_simnpo_without_elasticity(gamma: float) -> None:
    table, old = tables.scores(9), tables.scores(9, seed=1)
    elastic_value, elastic_grad, _ = value_and_gradient(Elastic(alpha=0.0, ablated=0.0, gamma=gamma), table, old, initial_state())
    sets = {"forget": tables.batch()["forget"]}
    value, grad = tables.ask(SimNPO(beta=BETA, delta=gamma), sets, table)
    assert elastic_value == pytest.approx(value, abs=1e-12)
    assert torch.allclose(elastic_grad, grad, atol=1e-14)


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_the_elastic_margin_equals_the_formula(micro_batch_size: int) -> None:
    """The margin is a constant for the gradient, and the standardized shift of a row is limited to three deviations."""
    table, old = tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    rows = tables.batch()["forget"]
    mean_logp, reference_logp = (torch.stack([x.mean() for x in tables.logps(t, rows)]) for t in (table, old))
    z = (((reference_logp - mean_logp) - 0.2) / 0.1).detach()
    assert bool((z.abs() > 3).any())
    margin = 0.3 + 0.7 * z.clamp(-3, 3)
    expected = -(2 / BETA) * logsigmoid(BETA * (-mean_logp - margin)).mean()
    state = {"mean": torch.tensor(0.2, dtype=torch.float64), "deviation": torch.tensor(0.1, dtype=torch.float64)}
    value, grad, _ = value_and_gradient(Elastic(alpha=0.7, gamma=0.3, ablated=0.0), table.detach(), old, state, micro_batch_size)
    assert value == pytest.approx(expected.item(), abs=1e-10)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


def test_elasticity_changes_nothing_at_the_start() -> None:
    """All z are 0 although the deviation is 0 too."""
    table = tables.scores(9)
    fixed, elastic = (value_and_gradient(Elastic(alpha=a, ablated=0.0), table, table, initial_state()) for a in (0.0, 0.2))
    assert elastic[0] == pytest.approx(fixed[0], abs=1e-9)
    assert torch.isfinite(elastic[1]).all()


@pytest.mark.parametrize(("options", "correction"), [({}, 1), ({"unbiased": False}, 0)])
def test_moving_averages_start_at_a_tenth_of_the_first_batch(options: dict[str, bool], correction: int) -> None:
    """They start at 0 with an inertia of 0.9. The deviation of the batch is the unbiased one, as `torch.std` takes it in alpha-DPO."""
    table, old = tables.scores(9), tables.scores(9, seed=1)
    rows = tables.batch()["forget"]
    shift = torch.stack([x.mean() for x in tables.logps(old, rows)]) - torch.stack([x.mean() for x in tables.logps(table, rows)])
    part = Elastic(ablated=0.0, **options)
    _, _, run = value_and_gradient(part, table, old, initial_state())
    notes: dict[str, Tensor] = {}
    evaluate(run, part, {"forget": rows, "retain": tables.batch()["retain"]}, notes=notes)
    step = RunStep(run, {"forget": rows}, {"forget": rows})
    step.notes = notes
    state = part.after(step.at("term0", part))
    assert float(state["mean"]) == pytest.approx(0.1 * float(shift.mean()), abs=1e-6)
    assert float(state["deviation"]) == pytest.approx(0.1 * float(shift.std(correction=correction)), abs=1e-6)


def test_moving_averages_stay_zero_until_the_weights_move(text: worlds.World) -> None:
    """The first step measures the unchanged weights, where no row has moved."""
    for steps, zero in ((1, True), (2, False)):
        run = loop.run(
            build_plan.plan("eru", {"steps": steps, "lr": 1e-3, "warmup": 0, "ablated": 0}), text.model(), text.modality, text.sets
        )
        state = run.state["/term0"]
        assert (float(state["mean"].abs()) < 1e-5) == zero
        assert (float(state["deviation"].abs()) < 1e-5) == zero


def test_removal_projects_out_the_direction_only() -> None:
    """No component remains along the direction, a second removal changes nothing, and orthogonal components stay."""
    g = torch.Generator().manual_seed(0)
    hidden, r = torch.randn(3, 5, 8, generator=g), normalize(torch.randn(8, generator=g), dim=0)
    out = without_component(hidden, r)
    assert float((out @ r).abs().max()) < 1e-6
    assert torch.allclose(without_component(out, r), out, atol=1e-6)
    assert torch.allclose((hidden - out).norm(dim=-1), (hidden @ r).abs(), atol=1e-6)
    orthogonal = normalize(torch.randn(8, generator=g), dim=0)
    orthogonal = normalize(orthogonal - (orthogonal @ r) * r, dim=0)
    assert torch.allclose(out @ orthogonal, hidden @ orthogonal, atol=1e-6)


class Block(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * hidden_states


@pytest.mark.parametrize("by_name", [False, True])
def test_the_patch_changes_module_inputs_only_within_its_block(by_name: bool) -> None:
    block, r = Block(), torch.tensor([1.0, 0.0])
    x = torch.tensor([[3.0, 4.0]])
    call: Any = (lambda: block(hidden_states=x)) if by_name else (lambda: block(x))
    with Ablate((block,), (r,)).on(block):
        assert call().tolist() == [[0.0, 8.0]]
    assert call().tolist() == [[6.0, 8.0]]


@torch.no_grad()
def test_directions_are_unit_vectors_between_the_prompt_means(text: worlds.World) -> None:
    """The expected vectors come from one row at a time, at the last token before the answer."""
    part, model = Elastic(prompts=100, depth=0.5), text.model()
    run = loop.new_state(model, text.modality, worlds.accelerator(), sets=text.sets)
    view = RunView(run, text.sets).at("term0", part)
    directions = part._directions(view)
    assert list(directions) == ["block:1"]

    def mean(rows: Rows) -> Tensor:
        states = []
        for i in range(len(rows)):
            hidden = text.modality.forward(model, [rows.select([i])], ("model.layers.1",))[0].input("model.layers.1").values
            states.append(hidden[len(rows["prompt"][i]) - 1])
        return torch.stack(states).mean(0)

    expected = normalize(mean(text.sets["forget"]) - mean(text.sets["retain"]), dim=0)
    assert torch.allclose(directions["block:1"], expected, atol=1e-4)
    one = text.sets["forget"].select([0])
    assert last_prompt_inputs(view, one, "block:1").shape == (1, 64)


def test_about_half_of_the_steps_are_ablated(text: worlds.World) -> None:
    part = Elastic()
    run = loop.new_state(text.model(), text.modality, worlds.accelerator(), sets=text.sets)
    run.state = {"/term0": {**initial_state(), "block:1": torch.ones(64)}}
    patches = []
    for step in range(200):
        run.step = step
        view: Any = RunView(run, text.sets).at("term0", part)
        patches.append(part._patch(view) is not None)
    assert 70 < sum(patches) < 130


@pytest.mark.slow
def test_forgets_and_retains(text: worlds.World) -> None:
    model = text.model()
    known = worlds.nll(model, text.modality, text.sets["forget"])
    loop.run(build_plan.plan("eru", {"lr": 1e-3, "epochs": 30, "warmup": 0, "forget_weight": 0.2}), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert known < 0.2
    assert forget > 1.0
    assert retain < 0.5 * forget

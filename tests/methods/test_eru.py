"""ERU: SimNPO as its limit, a margin without a gradient, moving averages by hand, what the ablation takes out, and the outcome."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

import tables
import worlds
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.context import RunStep, RunView
from expunge.engine.gradient import evaluate
from expunge.engine.run_state import RunState
from expunge.methods.objectives.eru import Ablate, Elastic, last_asked, removed
from expunge.methods.objectives.simnpo import SimNPO
from expunge.workflows import build_plan

BETA = 2.5


def asked(
    part: Elastic, table: Tensor, reference: Tensor, state: dict[str, Tensor], micro_batch_size: int = 0
) -> tuple[float, Tensor, RunState]:
    """Value and gradient by the table of the forget term, in a given state."""
    sets = {n: r for n, r in tables.batch().items() if n in part.reads}
    run = loop.new_state(tables.Table(table), tables.Port(), worlds.accelerator(), models={"reference": {"scores": reference}})
    run.reference_loss = loop.cache_reference(run, sets, frozenset({"forget"}), run.models["reference"])
    run.state = {"/term0": state}
    value, grads = evaluate(run, part, sets, micro_batch_size)
    return float(value), grads[0], run


def still() -> dict[str, Tensor]:
    return {"mean": torch.tensor(0.0), "deviation": torch.tensor(0.0)}


@pytest.mark.parametrize("gamma", [0.0, 0.4])
def test_without_elasticity_it_is_simnpo(gamma: float) -> None:
    table, old = tables.scores(9), tables.scores(9, seed=1)
    mine = asked(Elastic(alpha=0.0, ablated=0.0, gamma=gamma), table, old, still())
    sets = {"forget": tables.batch()["forget"]}
    value, grad = tables.ask(SimNPO(beta=BETA, delta=gamma), sets, table)
    assert mine[0] == pytest.approx(value, abs=1e-12)
    assert torch.allclose(mine[1], grad, atol=1e-14)


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_the_margin_by_hand(micro_batch_size: int) -> None:
    """It is a constant to the gradient; a row far from the others is cut at three deviations."""
    table, old = tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    rows = tables.batch()["forget"]
    likely, before = (torch.stack([x.mean() for x in tables.logps(t, rows)]) for t in (table, old))
    z = (((before - likely) - 0.2) / 0.1).detach()
    assert bool((z.abs() > 3).any())
    margin = 0.3 + 0.7 * z.clamp(-3, 3)
    wanted = -(2 / BETA) * logsigmoid(BETA * (-likely - margin)).mean()
    state = {"mean": torch.tensor(0.2, dtype=torch.float64), "deviation": torch.tensor(0.1, dtype=torch.float64)}
    value, grad, _ = asked(Elastic(alpha=0.7, gamma=0.3, ablated=0.0), table.detach(), old, state, micro_batch_size)
    assert value == pytest.approx(wanted.item(), abs=1e-10)
    assert torch.allclose(grad, tables.slope(wanted, table), atol=1e-12)


def test_at_the_start_nothing_has_moved() -> None:
    """All z are 0, so elasticity changes nothing, and 0 / 0 does not happen."""
    table = tables.scores(9)
    stiff, elastic = (asked(Elastic(alpha=a, ablated=0.0), table, table, still()) for a in (0.0, 0.2))
    assert elastic[0] == pytest.approx(stiff[0], abs=1e-9)
    assert torch.isfinite(elastic[1]).all()


def test_moving_averages_are_a_tenth_of_the_first_batch() -> None:
    """From 0, at an inertia of 0.9; the deviation is that of the batch's rows."""
    table, old = tables.scores(9), tables.scores(9, seed=1)
    rows = tables.batch()["forget"]
    moved = torch.stack([x.mean() for x in tables.logps(old, rows)]) - torch.stack([x.mean() for x in tables.logps(table, rows)])
    part = Elastic(ablated=0.0)
    _, _, run = asked(part, table, old, still())
    notes: dict[str, Tensor] = {}
    evaluate(run, part, {"forget": rows, "retain": tables.batch()["retain"]}, notes=notes)
    step = RunStep(run, {"forget": rows}, {"forget": rows})
    step.notes = notes
    state = part.after(step.at("term0", part))
    assert float(state["mean"]) == pytest.approx(0.1 * float(moved.mean()), abs=1e-6)
    assert float(state["deviation"]) == pytest.approx(0.1 * float(moved.std(correction=0)), abs=1e-6)


def test_averages_leave_zero_with_the_weights(text: worlds.World) -> None:
    """At the untouched weights no row has moved."""
    for steps, zero in ((1, True), (2, False)):
        run = loop.run(
            build_plan.plan("eru", {"steps": steps, "lr": 1e-3, "warmup": 0, "ablated": 0}), text.model(), text.modality, text.sets
        )
        state = run.state["/term0"]
        assert (float(state["mean"].abs()) < 1e-5) == zero
        assert (float(state["deviation"].abs()) < 1e-5) == zero


def test_what_is_removed() -> None:
    """Nothing is left along the direction; twice is once; what is orthogonal stays; the change is as long as the component was."""
    g = torch.Generator().manual_seed(0)
    h, r = torch.randn(3, 5, 8, generator=g), normalize(torch.randn(8, generator=g), dim=0)
    out = removed(h, r)
    assert float((out @ r).abs().max()) < 1e-6
    assert torch.allclose(removed(out, r), out, atol=1e-6)
    assert torch.allclose((h - out).norm(dim=-1), (h @ r).abs(), atol=1e-6)
    other = normalize(torch.randn(8, generator=g) - 0, dim=0)
    other = normalize(other - (other @ r) * r, dim=0)
    assert torch.allclose(out @ other, h @ other, atol=1e-6)


class Block(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * hidden_states


@pytest.mark.parametrize("by_name", [False, True])
def test_the_patch_acts_on_what_a_module_reads_and_goes(by_name: bool) -> None:
    block, r = Block(), torch.tensor([1.0, 0.0])
    x = torch.tensor([[3.0, 4.0]])
    call: Any = (lambda: block(hidden_states=x)) if by_name else (lambda: block(x))
    with Ablate((block,), (r,)).on(block):
        assert call().tolist() == [[0.0, 8.0]]
    assert call().tolist() == [[6.0, 8.0]]


@torch.no_grad()
def test_directions_part_the_prompts(text: worlds.World) -> None:
    """Each is the unit vector between the means of both kinds of prompts, taken a row at a time, at the last token before the answer."""
    part, model = Elastic(prompts=100, depth=0.5), text.model()
    run = loop.new_state(model, text.modality, worlds.accelerator(), sets=text.sets)
    view = RunView(run, text.sets).at("term0", part)
    found = part._directions(view)
    assert list(found) == ["block:1"]

    def mean(rows: Rows) -> Tensor:
        seen = []
        for i in range(len(rows)):
            h = text.modality.forward(model, [rows.select([i])], ("model.layers.1",))[0].input("model.layers.1").values
            seen.append(h[len(rows["prompt"][i]) - 1])
        return torch.stack(seen).mean(0)

    wanted = normalize(mean(text.sets["forget"]) - mean(text.sets["retain"]), dim=0)
    assert torch.allclose(found["block:1"], wanted, atol=1e-4)
    one = text.sets["forget"].select([0])
    assert last_asked(view, one, "block:1").shape == (1, 64)


def test_half_of_the_steps_are_ablated(text: worlds.World) -> None:
    part = Elastic()
    run = loop.new_state(text.model(), text.modality, worlds.accelerator(), sets=text.sets)
    run.state = {"/term0": {**still(), "block:1": torch.ones(64)}}
    patches = []
    for step in range(200):
        run.step = step
        view: Any = RunView(run, text.sets).at("term0", part)
        patches.append(part._patch(view) is not None)
    assert 70 < sum(patches) < 130


def test_forgets_and_keeps(text: worlds.World) -> None:
    model = text.model()
    known = worlds.nll(model, text.modality, text.sets["forget"])
    loop.run(build_plan.plan("eru", {"lr": 1e-3, "epochs": 30, "warmup": 0, "forget_weight": 0.2}), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert known < 0.2
    assert forget > 1.0
    assert retain < 0.5 * forget

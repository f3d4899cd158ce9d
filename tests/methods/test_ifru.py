"""IFRU: exact on quadratic losses, spill-over over a graph against autograd, and the outcome on tastes."""

import copy

import pytest
import torch

import factors
import tastes
import worlds
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.workflows import build_plan

EXACT = {"damping": 0, "tolerance": 1e-13, "iterations": 200}


def unlearned(world: factors.Small, **hyperparameters) -> factors.Factors:
    model = factors.Factors(world.p, world.q)
    loop.run(build_plan.plan("ifru", {**EXACT, "vectors": "first", **hyperparameters}), model, factors.FactorsModality(), world.sets)
    return model


def test_step_with_the_hessian_of_the_remaining_rows_is_retraining() -> None:
    world = factors.small()
    model = unlearned(world, curvature="remaining")
    assert torch.allclose(model.p[0], world.solution(0, factors.KEPT), atol=1e-10)
    assert float((world.p[0] - model.p[0]).detach().norm()) > 0.1
    assert torch.equal(model.p[1:], world.p[1:])
    assert torch.equal(model.q, world.q)


def test_step_with_the_hessian_of_all_rows_falls_short() -> None:
    """It equals p + (Q'Q over all rows)^-1 (gradient of the forgotten rows)."""
    world = factors.small()
    model, q = unlearned(world), world.q[:7]
    forgotten = world.q[list(factors.FORGOTTEN)]
    gradient = forgotten.T @ (forgotten @ world.p[0] - world.targets[0, list(factors.FORGOTTEN)])
    assert torch.allclose(model.p[0], world.p[0] + torch.linalg.solve(q.T @ q, gradient), atol=1e-10)
    assert float((model.p[0] - world.solution(0, factors.KEPT)).detach().norm()) > 0.05


def test_residual_correction_reaches_retraining_from_any_start() -> None:
    world = factors.small(trained=False)
    newton = unlearned(world, curvature="remaining", residual_correction="newton")
    assert torch.allclose(newton.p[0], world.solution(0, factors.KEPT), atol=1e-10)
    published = unlearned(world, curvature="remaining", residual_correction="published")
    off = unlearned(world, curvature="remaining")
    distances = [float((m.p[0] - world.solution(0, factors.KEPT)).detach().norm()) for m in (off, published)]
    assert distances[0] < distances[1]


def test_the_authors_descent_approaches_the_solution() -> None:
    world = factors.small()
    far, near = (unlearned(world, curvature="remaining", solver="adam", iterations=n, solver_lr=0.3).p[0].detach() for n in (5, 200))
    expected = world.solution(0, factors.KEPT)
    assert float((near - expected).norm()) < 0.02 < float((far - expected).norm())


def test_damping_raised_for_saddles_is_said() -> None:
    world = factors.small(trained=False)
    model = factors.Factors(world.p / 10, world.q / 10)
    run = loop.run(build_plan.plan("ifru", {**EXACT, "vectors": "all"}), model, factors.FactorsModality(), world.sets)
    assert "the Hessian is not positive definite in the moved weights" in run.warnings[0]


def test_an_unfinished_solution_is_said() -> None:
    world = factors.small()
    model = factors.Factors(world.p, world.q)
    run = loop.run(
        build_plan.plan("ifru", {"vectors": "first", "iterations": 1, "tolerance": 1e-9}), model, factors.FactorsModality(), world.sets
    )
    assert "ended after 1 iterations" in run.warnings[0]


def test_a_table_that_does_not_train_is_refused() -> None:
    model, modality, sets = tastes.tiny("bpr_mf", steps=0)
    model.user_table.weight.requires_grad_(False)
    plans = build_plan.plan("ifru", {"trainable": "item_table"})
    with pytest.raises(UserError, match=r"'user_table.weight', which does not train here"):
        loop.run(plans, model, modality, sets)


def test_without_a_graph_nothing_spills_over() -> None:
    ends = []
    for spill_over in (True, False):
        model, modality, sets = tastes.tiny("bpr_mf")
        loop.run(build_plan.plan("ifru", {"spill_over": spill_over, "iterations": 5, "draws": 1}), model, modality, sets)
        ends.append(worlds.tensors(model))
    assert worlds.same(*ends)


def test_spill_over_is_the_change_of_gradients_by_the_graph() -> None:
    """With a damping that outweighs the Hessian the step is g / d, and g follows from three gradients of autograd."""
    model, modality, sets = tastes.tiny("lightgcn")
    d, tables = 1e9, [model.user_table.weight, model.item_table.weight]
    start = [t.detach().clone() for t in tables]

    def summed(name: str, graph: bool) -> list[torch.Tensor]:
        probe, own = copy.deepcopy(model), copy.deepcopy(modality)
        (own.add_rows if graph else own.remove_rows)(probe, sets["forget"])
        loss = own.forward(probe, [sets[name]])[0].loss.mean().sum()
        return list(torch.autograd.grad(loss, [probe.user_table.weight, probe.item_table.weight]))

    expected = [f + a - b for f, a, b in zip(summed("forget", True), summed("retain", True), summed("retain", False), strict=True)]
    fixed = FixedDraws(modality)
    loop.run(build_plan.plan("ifru", {"damping": d, "draws": 1, "tolerance": 1e-10}), model, fixed, sets)
    gone = set(sets["forget"]["user"])
    reached = {u for u in range(16) if expected[0][u].abs().max() > 1e-4}
    assert reached - gone, "users that were not asked about are reached over the graph"
    for table, old, g in zip(tables, start, expected, strict=True):
        assert torch.allclose((table.detach() - old) * d, g, atol=2e-5)


class FixedDraws:
    """A modality whose rows keep the negatives that they have."""

    def __init__(self, modality) -> None:
        self.modality = modality

    def __getattr__(self, name: str):
        return getattr(self.modality, name)

    def redraw(self, rows, seed: int):
        return rows


def test_the_graph_is_left_without_the_rows() -> None:
    for removed in (False, True):
        model, modality, sets = tastes.tiny("lightgcn")
        edges = model.edges.shape[1]
        if removed:
            modality.remove_rows(model, sets["forget"])
        loop.run(build_plan.plan("ifru", {"iterations": 2, "draws": 1}), model, modality, sets)
        assert model.edges.shape[1] == edges - len(sets["forget"])


def test_forgets_users_and_keeps_what_others_like() -> None:
    world = tastes.world()
    model, _ = world.unlearned("ifru", curvature="remaining")
    assert world.recall(model, "forget") <= world.recall(world.model(), "forget") - 0.3
    assert world.recall(model, "test") >= 0.95 * world.recall(world.model(), "test")

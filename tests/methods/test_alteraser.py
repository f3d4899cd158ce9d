"""AltEraser: a step of users' vectors is ridge regression, rounds are alternating least squares, and the outcome on tastes."""

import pytest
import torch

import factors
import tastes
from expunge.engine import loop
from expunge.workflows import build_plan

EXACT = {"damping": 0, "tolerance": 1e-13, "iterations": 200}


def run(world: factors.Small, **hyperparameters):
    model = factors.Factors(world.p, world.q)
    state = loop.run(build_plan.plan("alteraser", {**EXACT, **hyperparameters}), model, factors.FactorsModality(), world.sets)
    return model, state


def sweep(world: factors.Small, p: torch.Tensor, q: torch.Tensor, users, items, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One round of alternating least squares over some users and then some items, on the retain rows."""
    retain = set(zip(world.sets["retain"]["user"], world.sets["retain"]["item"], strict=True))
    eye, p, q = ridge * torch.eye(3, dtype=torch.float64), p.clone(), q.clone()
    for u in users:
        own = [i for v, i in sorted(retain) if v == u]
        p[u] = torch.linalg.solve(q[own].T @ q[own] + eye, q[own].T @ world.targets[u, own])
    for i in items:
        own = [u for u, j in sorted(retain) if i == j]
        q[i] = torch.linalg.solve(p[own].T @ p[own] + eye, p[own].T @ world.targets[own, i])
    return p, q


@pytest.mark.parametrize("ridge", [0.3, 2.0])
def test_one_round_is_ridge_regression_of_the_touched_vectors(ridge: float) -> None:
    """Users first, to (Q'Q + ridge I)^-1 Q'y on the remaining rows, whatever the vector was before; then items; all others stay."""
    world = factors.small(trained=False)
    model, _ = run(world, rounds=1, ridge=ridge)
    assert torch.allclose(model.p[0], world.solution(0, factors.KEPT, ridge), atol=1e-9)
    p, q = sweep(world, world.p, world.q, [0], factors.FORGOTTEN, ridge)
    assert torch.allclose(model.p, p, atol=1e-9)
    assert torch.allclose(model.q, q, atol=1e-9)
    assert torch.equal(model.p[1:], world.p[1:])
    assert torch.equal(model.q[2:], world.q[2:])


def test_later_rounds_also_move_the_vectors_of_neighbors() -> None:
    """Retain rows with user 0 or with items 0 and 1: all users, and the items 0 to 6."""
    world = factors.small(trained=False)
    model, state = run(world, rounds=2, ridge=0.5, stop=0)
    p, q = sweep(world, world.p, world.q, [0], factors.FORGOTTEN, 0.5)
    p, q = sweep(world, p, q, range(3), range(7), 0.5)
    assert torch.allclose(model.p, p, atol=1e-8)
    assert torch.allclose(model.q, q, atol=1e-8)
    assert torch.equal(model.q[7], world.q[7])
    assert [r["round"] for r in state.shown["rounds"]] == [1, 2]


def test_a_vector_without_remaining_rows_goes_to_zero() -> None:
    world = factors.small()
    of_user = [i for i, u in enumerate(world.sets["retain"]["user"]) if u != 0]
    world.sets["retain"] = world.sets["retain"].select(of_user)
    model, _ = run(world, rounds=1, ridge=0.5)
    assert not model.p[0].any()


def test_rounds_end_where_the_gradient_is_small() -> None:
    _, state = run(factors.small(trained=False), rounds=10, ridge=0.5, stop=0.5)
    assert len(state.shown["rounds"]) < 10


@pytest.mark.slow
def test_forgets_users_and_keeps_what_others_like() -> None:
    world = tastes.world()
    model, _ = world.unlearned("alteraser")
    assert world.recall(model, "forget") <= world.recall(world.model("retrained"), "forget") + 0.1
    assert world.recall(model, "forget") <= world.recall(world.model(), "forget") - 0.3
    assert world.recall(model, "test") >= 0.95 * world.recall(world.model(), "test")


def test_weights_outside_the_tables_stay_if_asked() -> None:
    for shared in (True, False):
        model, modality, sets = tastes.tiny("neumf")
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        loop.run(build_plan.plan("alteraser", {"shared": shared, "rounds": 1, "iterations": 5, "draws": 1}), model, modality, sets)
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert moved >= {"user_table.weight", "item_input.weight"}
        assert any("layers" in n for n in moved) == shared

"""The gradient penalty: quadratic losses, second derivatives written out and through attention, and the outcome."""

from typing import Any

import pytest
import torch

import tables
import worlds
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.engine.cached_reference import cache_reference
from expunge.engine.gradient import evaluate, global_norm
from expunge.methods.objectives.npo import NPO
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.gradient_penalty import Penalty
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector


def test_penalty_on_a_quadratic_matches_its_derivative() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2)})
    h, g = bowls.curvature["forget"], bowls.gradient("forget")
    value, gradient = bowls.under(Penalty(kappa=0.3))
    assert torch.allclose(gradient, g + 0.3 * h @ g / g.norm() + bowls.gradient("retain"), atol=1e-6)
    assert float(value) == pytest.approx(float(bowls.grads()[0] + 0.3 * g.norm()), rel=1e-6)


def test_penalty_matches_hand_values() -> None:
    line = Bowls(torch.tensor([3.0]), {"forget": torch.tensor([[2.0]])})
    value, gradient = line.under(Penalty(kappa=10))  # gradient 6, which grows by 2 a unit
    assert (float(value), float(gradient)) == pytest.approx((9 + 60, 6 + 20))
    value, gradient = line.under(Penalty(kappa=10, detached=True))
    assert (float(value), float(gradient)) == pytest.approx((9 + 60, 6))


def test_one_step_matches_a_penalty_written_out() -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    forget = torch.cat(tables.logps(table, sets["forget"])).mean()
    length = torch.autograd.grad(forget, table, create_graph=True)[0].norm()
    retain = -torch.cat(tables.logps(table, sets["retain"])).mean()
    expected = tables.slope(forget + 0.8 * length + 2 * retain, table)
    for micro_batch_size in (0, 1):
        step = tables.under(
            Ascent() + 2 * NLL("retain"), Penalty(kappa=0.8), sets=sets, scores=table.detach(), micro_batch_size=micro_batch_size
        )
        assert torch.allclose(step, expected, atol=1e-7)


def hessian_vector_products(world: worlds.World) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A Hessian-vector product as the loop computes it, and by finite differences of gradients."""
    model, batch = world.model().double(), {"forget": world.sets["forget"].select(range(3))}
    run = loop.new_state(model, world.modality, worlds.accelerator())
    params = list(model.parameters())
    g = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in params]
    computed, gradients = evaluate(run, Ascent(), batch, vector=direction)[1], []
    for sign in (1, -2):
        with torch.no_grad():
            for p, v in zip(params, direction, strict=True):
                p.add_(sign * 1e-5 * v)
        gradients.append(evaluate(run, Ascent(), batch)[1])
    return computed, [(a - b) / 2e-5 for a, b in zip(*gradients, strict=True)]


def test_second_derivatives_go_through_attention(text: worlds.World, digits: worlds.World) -> None:
    for world in (text, digits):
        computed, expected = hessian_vector_products(world)
        assert worlds.far(computed, expected) < 1e-4 * float(global_norm(expected))
        assert float(global_norm(expected)) > 1


def test_micro_batches_work_only_with_losses_that_allow_them(text: worlds.World) -> None:
    def run(name: str, **hyperparameters: Any) -> torch.nn.Module:
        model = text.model().double()
        loop.run(
            build_plan.plan(name, {"steps": 2, "batch_size": 4, "optimizer": "sgd", "lr": 1e-2, **hyperparameters}, update=update),
            model,
            *world,
        )
        return model

    world, update = (text.modality, text.sets), ("gradient_penalty",)
    final_weights = [worlds.tensors(run("npo", micro_batch_size=m, epochs=1)) for m in (0, 2)]
    assert worlds.far(*final_weights) < 1e-7
    update = ()
    with pytest.raises(UserError, match="not linear in its batch means needs the whole batch at once: leave --micro-batch-size out"):
        run("gradient_penalty", micro_batch_size=2, batch_mean=True)
    own = [worlds.tensors(run("gradient_penalty", micro_batch_size=m)) for m in (0, 2)]
    assert worlds.far(*own) < 1e-7


@pytest.mark.slow
def test_penalty_keeps_the_forget_gradient_short_while_forgetting(text: worlds.World) -> None:
    length, forget_loss = {}, {}
    for kappa in (0.0, 0.02, 10.0):
        model = text.model()
        hyperparameters = {"lr": 1e-3, "epochs": 20, "steps": 0, "batch_size": 9, "kappa": kappa, "batch_mean": True}
        loop.run(build_plan.plan("gradient_penalty", hyperparameters), model, text.modality, text.sets)
        run = loop.new_state(model, text.modality, worlds.accelerator())
        run.reference_loss = cache_reference(run, text.sets, frozenset({"forget"}))
        length[kappa] = float(global_norm(evaluate(run, NPO(), {"forget": text.sets["forget"]})[1]))
        forget_loss[kappa] = worlds.nll(model, text.modality, text.sets["forget"])
    assert forget_loss[0.02] > 2.0
    assert length[10.0] < length[0.02] < length[0.0]
    assert forget_loss[10.0] < 0.1  # memorized rows have a short gradient, so a large kappa keeps the memory

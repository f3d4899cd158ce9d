"""Curvature regularization: quadratic losses, where its gradient vanishes, and a penalty written out."""

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.curvature import Curvature
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector


def test_penalty_on_a_quadratic_has_a_value_and_no_gradient() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2)})
    g = bowls.gradient("forget")
    value, gradient = bowls.under(Curvature(kappa=3, mu=0.05))
    change = (bowls.curvature["forget"] @ (g / g.norm())).norm()
    assert float(value) == pytest.approx(float(bowls.grads()[0] + 3 * 0.05 * change), rel=1e-6)
    assert torch.allclose(gradient, g + bowls.gradient("retain"), atol=1e-12)


def test_detached_penalty_matches_the_authors_code() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2)})
    value, gradient = bowls.under(Curvature(kappa=3, mu=0.05, detached=True))
    assert torch.allclose(gradient, 2 * bowls.gradient("forget") + bowls.gradient("retain"))
    assert torch.equal(value, bowls.under(Curvature(kappa=3, mu=0.05))[0])


def test_flat_loss_has_no_penalty() -> None:
    flat = Bowls(vector(0), {"forget": torch.zeros(5, 5, dtype=torch.float64), "retain": spd(2)})
    assert torch.allclose(flat.under(Curvature())[1], flat.gradient("retain"))


def gradient_of(table: torch.Tensor, sets: dict) -> torch.Tensor:
    return torch.autograd.grad(torch.cat(tables.logps(table, sets["forget"])).mean(), table, create_graph=True)[0]


@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_one_step_matches_a_penalty_written_out(micro_batch_size: int) -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    gradient = gradient_of(table, sets)
    direction = (gradient / gradient.norm()).detach()
    change = (gradient_of(table + 0.5 * direction, sets) - gradient).norm()
    forget, retain = torch.cat(tables.logps(table, sets["forget"])).mean(), -torch.cat(tables.logps(table, sets["retain"])).mean()
    expected = tables.slope(forget + 4 * change + retain, table)
    step = tables.under(
        Ascent() + NLL("retain"), Curvature(kappa=4, mu=0.5), sets=sets, scores=table.detach(), micro_batch_size=micro_batch_size
    )
    assert torch.allclose(step, expected, atol=1e-6)
    assert not torch.allclose(step, tables.under(Ascent() + NLL("retain"), sets=sets, scores=table.detach()), atol=1e-3)


@pytest.mark.slow
def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = text.model()
    hyperparameters = {"lr": 1e-3, "epochs": 20, "steps": 0, "batch_size": 9, "kappa": 0.1}
    loop.run(build_plan.plan("curvature", hyperparameters), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 2.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 1.0

"""SimNPO against formulas written on a table of scores, its indifference to length, and its outcome."""

import math

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.npo import NPO
from expunge.methods.objectives.simnpo import SimNPO
from expunge.workflows import build_plan


@pytest.mark.parametrize(("beta", "delta"), [(4.5, 0.0), (0.7, 1.5)])
def test_value_and_gradient(beta: float, delta: float) -> None:
    sets, table = {"forget": tables.batch()["forget"]}, tables.scores(9).requires_grad_()
    nlls = torch.stack([-x.mean() for x in tables.logps(table, sets["forget"])])
    wanted = (2 / beta) * torch.log1p(torch.exp(-beta * (nlls - delta))).mean()
    value, grad = tables.ask(SimNPO(beta=beta, delta=delta), sets, table.detach())
    assert value == pytest.approx(wanted.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(wanted, table))


def test_slope_by_the_mean_loss_of_a_row() -> None:
    """One label of probability 1/2 among two classes: nll = log 2, and d nll / d score = (p - 1)."""
    _, grad = tables.ask(SimNPO(beta=1.0), {"forget": tables.rows("forget", [0], [[0]])}, torch.zeros(1, 1, 2, dtype=torch.float64))
    assert grad.flatten().tolist() == pytest.approx([1 / 3, -1 / 3])  # -2 sigmoid(-log 2) = -2/3, times -1/2


def test_twice_as_long_an_answer_changes_npo_and_not_simnpo() -> None:
    table, once = tables.scores(1, 2), tables.rows("forget", [0], [[3, 1]])
    doubled, twice = torch.cat([table, table], 1), tables.rows("forget", [0], [[3, 1, 3, 1]])
    short, long = (tables.ask(SimNPO(), {"forget": r}, t)[0] for r, t in ((once, table), (twice, doubled)))
    assert short == pytest.approx(long, abs=1e-12)
    short, long = (tables.ask(NPO(), {"forget": r}, t, torch.zeros_like(t))[0] for r, t in ((once, table), (twice, doubled)))
    assert abs(short - long) > 0.1


def test_defaults_are_those_of_tofu() -> None:
    forget, retain = build_plan.plan("simnpo")[0].terms()
    assert (forget.weight, forget.objective.beta, forget.objective.delta, retain.weight) == (0.125, 4.5, 0.0, 1.0)


def test_forgets_and_retains_without_a_reference(text: worlds.World) -> None:
    model = text.model()
    run = loop.run(build_plan.plan("simnpo", {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
    assert "reference" not in run.models
    assert not run.reference_loss
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 0.4
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.1
    assert math.isfinite(run.log[0]["loss"])

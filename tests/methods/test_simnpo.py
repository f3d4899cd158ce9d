"""SimNPO: formulas written on a table of scores, independence of answer length, and the outcome."""

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
def test_value_and_gradient_match_the_formula(beta: float, delta: float) -> None:
    sets, table = {"forget": tables.batch()["forget"]}, tables.scores(9).requires_grad_()
    nlls = torch.stack([-x.mean() for x in tables.logps(table, sets["forget"])])
    expected = (2 / beta) * torch.log1p(torch.exp(-beta * (nlls - delta))).mean()
    value, grad = tables.ask(SimNPO(beta=beta, delta=delta), sets, table.detach())
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table))


def test_gradient_of_one_label_matches_a_hand_value() -> None:
    """One label of probability 1/2 among two classes: nll = log 2, and d nll / d score = (p - 1)."""
    _, grad = tables.ask(SimNPO(beta=1.0), {"forget": tables.rows("forget", [0], [[0]])}, torch.zeros(1, 1, 2, dtype=torch.float64))
    assert grad.flatten().tolist() == pytest.approx([1 / 3, -1 / 3])  # -2 sigmoid(-log 2) = -2/3, times -1/2


def test_doubling_an_answer_changes_npo_but_not_simnpo() -> None:
    table, single = tables.scores(1, 2), tables.rows("forget", [0], [[3, 1]])
    double_table, double = torch.cat([table, table], 1), tables.rows("forget", [0], [[3, 1, 3, 1]])
    short, long = (tables.ask(SimNPO(), {"forget": r}, t)[0] for r, t in ((single, table), (double, double_table)))
    assert short == pytest.approx(long, abs=1e-12)
    short, long = (tables.ask(NPO(), {"forget": r}, t, torch.zeros_like(t))[0] for r, t in ((single, table), (double, double_table)))
    assert abs(short - long) > 0.1


def test_defaults_match_the_paper_for_tofu() -> None:
    forget, retain = build_plan.plan("simnpo")[0].terms()
    assert (forget.weight, forget.objective.beta, forget.objective.delta, retain.weight) == (0.125, 4.5, 0.0, 1.0)


def test_forgets_and_preserves_retain_rows_without_a_reference(text: worlds.World) -> None:
    model = text.model()
    run = loop.run(build_plan.plan("simnpo", {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
    assert "reference" not in run.models
    assert not run.reference_loss
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 0.4
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.1
    assert math.isfinite(run.log[0]["loss"])

"""DPO with refusals against formulas on a table of logits, its symmetry, its relation to NPO, and the outcome."""

import math

import pytest
import torch
from torch import Tensor

import tables
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.methods.objectives.dpo import DPO
from expunge.methods.objectives.npo import NPO
from expunge.workflows import build_plan


def formula(table: Tensor, reference: Tensor, sets: Sets, beta: float) -> Tensor:
    """The loss, written out pair by pair."""
    total = table.new_zeros(())
    names = ("substitute", "forget")
    pairs = zip(*(tables.logps(w, sets[n]) for n in names for w in (table, reference)), strict=True)
    for won, won_before, lost, lost_before in pairs:
        margin = (won.sum() - won_before.sum()) - (lost.sum() - lost_before.sum())
        total = total + (2 / beta) * torch.log1p(torch.exp(-beta * margin)) / 3
    return total


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_value_and_gradient_equal_the_formula(beta: float) -> None:
    sets, table, reference = tables.batch(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    expected = formula(table, reference, sets, beta)
    value, grad = tables.ask(DPO(beta=beta), sets, table.detach(), reference)
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table))


def test_a_swap_of_the_pair_reverses_the_gradient_at_the_reference() -> None:
    sets, table = tables.batch(), tables.scores(9)
    swapped = {"forget": sets["substitute"].rename("forget"), "substitute": sets["forget"].rename("substitute")}
    value, grad = tables.ask(DPO(), sets, table)
    swapped_value, swapped_grad = tables.ask(DPO(), swapped, table)
    assert value == swapped_value == pytest.approx(20 * math.log(2))
    assert torch.allclose(grad, -swapped_grad, atol=1e-14)
    assert float(grad.abs().max()) > 1e-3


def test_equals_npo_when_the_winner_has_not_moved() -> None:
    sets, table, reference = tables.batch(), tables.scores(9), tables.scores(9)
    reference[:3] = tables.scores(3, seed=1)  # only the prompts to forget differ; those of the refusals have not moved
    value, grad = tables.ask(DPO(), sets, table, reference)
    npo, npo_grad = tables.ask(NPO(), {"forget": sets["forget"]}, table, reference)
    assert value == pytest.approx(npo, abs=1e-12)
    assert torch.allclose(grad[:3], npo_grad[:3])
    assert float(grad[3:6].abs().max()) > 1e-3


def test_several_draws_per_row_raise_an_error(text: worlds.World) -> None:
    with pytest.raises(UserError, match="one winner"):
        loop.run(build_plan.plan("dpo", {"draws": 2, "epochs": 1}), text.model(), text.modality, text.sets)


def test_refusals_use_a_live_reference_and_forget_rows_a_cached_one(text: worlds.World) -> None:
    run = loop.run(build_plan.plan("dpo", {"epochs": 2}), text.model(), text.modality, text.sets)
    assert run.forwards.count("now") == run.forwards.count("reference") == run.cost.steps
    assert {k.split("/")[0] for k in run.reference_loss} == {"forget"}
    assert next(iter(run.log[0]["terms"].values())) == pytest.approx(20 * math.log(2), rel=1e-4)


@pytest.mark.slow
def test_prefers_refusals_and_keeps_the_retain_rows(text: worlds.World) -> None:
    pool, model = text.sets["alternate_answers"]["answer_text"], text.model()
    rows = text.modality.relabel(text.sets["forget"], [pool[i % len(pool)] for i in range(len(text.sets["forget"]))], "refused")
    before = worlds.nll(model, text.modality, rows)
    loop.run(build_plan.plan("dpo", {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 0.5
    assert worlds.nll(model, text.modality, rows) < 0.7 * before
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.4

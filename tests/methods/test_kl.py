"""KL minimization: formulas written on a table of scores, the first gradient, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.workflows import build_plan


def kl_by_hand(table: torch.Tensor, reference: torch.Tensor, sets: dict) -> torch.Tensor:
    forget = torch.cat(tables.logps(table, sets["forget"]))
    total, labels = forget.sum() / len(forget), sum(map(len, sets["retain"]["answer"]))
    for p, answer in zip(sets["retain"]["prompt"], sets["retain"]["answer"], strict=True):
        for t in range(len(answer)):
            target = reference[p, t].softmax(0)
            total = total + (target * (target.log() - table[p, t].softmax(0).log())).sum() / labels
    return total


@pytest.mark.parametrize(("name", "hyperparameters"), [("kl", {}), ("graddiff", {"retain_term": "kl"})])
def test_value_and_gradient_match_the_formula(name: str, hyperparameters: dict) -> None:
    sets, table, reference = tables.batch(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    expected = kl_by_hand(table, reference, sets)
    value, grad = tables.ask(build_plan.plan(name, hyperparameters)[0].action, sets, table.detach(), reference)
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table))


def test_only_the_forget_term_has_a_gradient_at_the_reference() -> None:
    sets, table = tables.batch(), tables.scores(9)
    _, grad = tables.ask(build_plan.plan("kl")[0].action, sets, table)
    assert float(grad[6:].abs().max()) < 1e-15
    assert float(grad[:3].abs().max()) > 1e-3


def test_forgets_and_harms_retain_rows_less_than_ascent(text: worlds.World) -> None:
    losses = {}
    for name in ("kl", "ga"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 20}), model, text.modality, text.sets)
        losses[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert losses["kl"][0] > 3.0
    assert losses["kl"][1] < 0.3 * losses["ga"][1]

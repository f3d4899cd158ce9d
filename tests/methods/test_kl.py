"""KL minimisation against formulas written on a table of scores, its start, and its outcome."""

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
            old = reference[p, t].softmax(0)
            total = total + (old * (old.log() - table[p, t].softmax(0).log())).sum() / labels
    return total


@pytest.mark.parametrize(("name", "hyperparameters"), [("kl", {}), ("graddiff", {"retain_term": "kl"})])
def test_value_and_gradient_with_the_reference_term(name: str, hyperparameters: dict) -> None:
    sets, table, reference = tables.batch(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    wanted = kl_by_hand(table, reference, sets)
    value, grad = tables.ask(build_plan.plan(name, hyperparameters)[0].action, sets, table.detach(), reference)
    assert value == pytest.approx(wanted.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(wanted, table))


def test_at_the_reference_only_the_ascent_moves() -> None:
    sets, table = tables.batch(), tables.scores(9)
    _, grad = tables.ask(build_plan.plan("kl")[0].action, sets, table)
    assert float(grad[6:].abs().max()) < 1e-15
    assert float(grad[:3].abs().max()) > 1e-3


def test_forgets_while_retain_is_held_up(text: worlds.World) -> None:
    after = {}
    for name in ("kl", "ga"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 20}), model, text.modality, text.sets)
        after[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert after["kl"][0] > 3.0
    assert after["kl"][1] < 0.3 * after["ga"][1]

"""PDU: values written on a table of scores, the dual variable computed by hand, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.pdu import Flatten
from expunge.workflows import build_plan


def label_scores(table: torch.Tensor, rows) -> torch.Tensor:
    """The scores at every label position, (labels, classes)."""
    return torch.stack([table[p, t] for p, answer in zip(rows["prompt"], rows["answer"], strict=True) for t in range(len(answer))])


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_forget_term_matches_the_formula(micro_batch_size: int) -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    z = label_scores(table, sets["forget"])
    expected = ((z.max(-1).values - z.mean(-1)) ** 2).mean()
    value, grad = tables.ask(Flatten(), {"forget": sets["forget"]}, table.detach(), micro_batch_size=micro_batch_size)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


def test_one_position_matches_a_hand_value() -> None:
    table = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]], dtype=torch.float64)  # largest 6, mean 3
    assert tables.ask(Flatten(), {"forget": tables.rows("forget", [0], [[1]])}, table)[0] == pytest.approx(9.0)


def test_loss_is_zero_for_equal_scores_and_ignores_a_constant() -> None:
    sets, table = {"forget": tables.batch()["forget"]}, tables.scores(9)
    assert tables.ask(Flatten(), sets, torch.full_like(table, 3.0))[0] == 0
    assert tables.ask(Flatten(), sets, table + 7)[0] == pytest.approx(tables.ask(Flatten(), sets, table)[0], rel=1e-12)


@pytest.mark.parametrize("micro_batch_size", [0, 4])
def test_dual_variable_moves_by_the_excess_after_the_warm_up(text: worlds.World, micro_batch_size: int) -> None:
    hyperparameters = {"lr": 1e-3, "epochs": 6, "warm": 2, "start": 3.0, "rate": 20.0, "bound": 0.05, "micro_batch_size": micro_batch_size}
    run = loop.run(build_plan.plan("pdu", hyperparameters), text.model(), text.modality, text.sets)
    dual, duals = 3.0, []
    for record in [r for r in run.log if "loss" in r]:
        duals.append(dual)
        retain = record["terms"]["1 dual retain"] / dual
        if record["epoch"] >= 2:
            dual = max(0.0, dual + 20.0 * (retain - 0.05))
    assert duals[:3] == [3.0, 3.0, 3.0]
    assert len(set(duals)) > 2
    assert float(run.state["/term1"]["dual"]) == pytest.approx(dual, rel=1e-4)


def test_dual_variable_is_never_negative(text: worlds.World) -> None:
    hyperparameters = {"lr": 1e-4, "epochs": 3, "warm": 0, "rate": 1e4, "bound": 9.0}
    run = loop.run(build_plan.plan("pdu", hyperparameters), text.model(), text.modality, text.sets)
    assert float(run.state["/term1"]["dual"]) == 0
    assert run.log[-2]["terms"]["1 dual retain"] == 0


def test_forgets_and_preserves_retain_rows(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("pdu", {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 4.0
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.3

"""Refusal tuning: one mean over the labels of both halves, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.workflows import build_plan

OBJECTIVE = build_plan.plan("idk")[0].action


def test_value_and_gradient_equal_one_mean_over_all_labels() -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    expected = -torch.cat([*tables.logps(table, sets["substitute"]), *tables.logps(table, sets["retain"])]).mean()
    value, grad = tables.ask(OBJECTIVE, sets, table.detach())
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table))


def test_longer_retain_answers_take_weight_from_the_refusals() -> None:
    uniform = torch.zeros(2, 4, 5, dtype=torch.float64)
    sets = {"substitute": tables.rows("substitute", [0], [[1]]), "retain": tables.rows("retain", [1], [[0, 1, 2, 3]])}
    _, grad = tables.ask(OBJECTIVE, sets, uniform)
    assert grad[0, 0].tolist() == pytest.approx([0.04, -0.16, 0.04, 0.04, 0.04])  # (1/5 - onehot) / 5 labels, not / 1


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_accumulation_does_not_change_value_and_gradient(micro_batch_size: int) -> None:
    sets, table = tables.batch(), tables.scores(9)
    full, accumulated = tables.ask(OBJECTIVE, sets, table), tables.ask(OBJECTIVE, sets, table, micro_batch_size=micro_batch_size)
    assert accumulated[0] == pytest.approx(full[0], abs=1e-12)
    assert torch.allclose(accumulated[1], full[1])


def refused(world: worlds.World) -> Rows:
    """The questions to forget, with one refusal each."""
    pool, rows = world.sets["alternate_answers"]["answer_text"], world.sets["forget"]
    return world.modality.relabel(rows, [pool[i % len(pool)] for i in range(len(rows))], "refused")


@pytest.mark.slow
def test_refuses_forget_rows_and_keeps_the_retain_rows(text: worlds.World) -> None:
    model, rows = text.model(), refused(text)
    before = worlds.nll(model, text.modality, rows)
    loop.run(build_plan.plan("idk", {"lr": 1e-3, "epochs": 40}), model, text.modality, text.sets)
    assert before > 5.0
    assert worlds.nll(model, text.modality, rows) < 2.0
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 0.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.4

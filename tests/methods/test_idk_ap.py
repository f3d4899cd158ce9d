"""IDK+AP against formulas on a table of logits, and which rows the model refuses afterwards."""

import math
from dataclasses import replace

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.idk_ap import Preserve, Refuse
from expunge.workflows import build_plan


def retained() -> dict:
    """Retain rows with refusals to the same prompts."""
    own = tables.batch()["retain"]
    return {"retain": own, "refused": tables.rows("refused", own["prompt"], [[0, 1], [2, 3, 4], [5]])}


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_preserve_equals_the_formula(micro_batch_size: int) -> None:
    sets, table = retained(), tables.scores(9).requires_grad_()
    own, refused = (torch.stack([x.sum() for x in tables.logps(table, sets[n])]) for n in ("retain", "refused"))
    expected = -(1 / 0.3) * torch.log(1 / (1 + torch.exp(-0.3 * (own - refused)))).mean()
    value, grad = tables.ask(Preserve(beta=0.3), sets, table.detach(), micro_batch_size=micro_batch_size)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


def test_equal_answers_give_log_two_over_beta_and_opposite_gradients() -> None:
    table = torch.zeros(1, 1, 4, dtype=torch.float64)
    sets = {"retain": tables.rows("retain", [0], [[1]]), "refused": tables.rows("refused", [0], [[2]])}
    value, grad = tables.ask(Preserve(beta=0.1), sets, table)
    assert value == pytest.approx(math.log(2) / 0.1)
    assert grad[0, 0].tolist() == pytest.approx([0, -0.5, 0.5, 0])  # a step down raises the answer and lowers the refusal


def test_refuse_averages_over_all_labels() -> None:
    sets, table = {"substitute": tables.batch()["substitute"]}, tables.scores(9)
    expected = -torch.cat(tables.logps(table, sets["substitute"])).mean()
    assert tables.ask(Refuse(), sets, table)[0] == pytest.approx(float(expected.detach()), rel=1e-12)


def test_forget_and_retain_rows_get_separate_refusals(text: worlds.World) -> None:
    plan = build_plan.plan("idk_ap")[0]
    assert plan.sets_read() == {"forget", "retain", "alternate_answers"}
    assert {n for s in plan.selectors for n in s.gives} == {"substitute", "refused"}


def win_rate(text: worlds.World, model: torch.nn.Module, name: str) -> float:
    """Share of rows whose own answer is more likely than a refusal."""
    rows = text.sets[name].select(range(min(40, len(text.sets[name]))))
    refused = text.modality.relabel(rows, [text.sets["alternate_answers"]["answer_text"][i % 8] for i in range(len(rows))], "refused")
    with torch.no_grad():
        own, refusal = (output.target_logp.sum() for output in text.modality.forward(model, [rows, refused]))
    return float((own > refusal).float().mean())


@pytest.mark.slow
def test_refuses_forget_rows_and_prefers_true_answers_on_retain_rows(text: worlds.World) -> None:
    full = build_plan.plan("idk_ap", {"lr": 2e-3, "epochs": 30})[0]
    after = {}
    for name, plan in (("full", full), ("refusals alone", replace(full, action=Refuse()))):
        model = text.model()
        loop.run((plan,), model, text.modality, text.sets)
        after[name] = win_rate(text, model, "forget"), win_rate(text, model, "retain")
    assert after["full"][0] < 0.2
    assert after["full"][1] > 0.9
    assert after["refusals alone"][1] < 0.6

"""CE-U: its gradient by the logits, the labels that it leaves out, and the outcome."""

import math

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.ceu import CEU
from expunge.workflows import build_plan

FORGET = {"forget": tables.batch()["forget"]}  # answers of 3, 1 and 5 labels


@pytest.mark.parametrize(("n", "label_count"), [(0, 9), (1, 6), (2, 4), (4, 1)])
def test_gradient_by_the_logits_equals_the_formula(n: int, label_count: int) -> None:
    table = tables.scores(9)
    expected = torch.zeros_like(table)
    for p, answer in zip(FORGET["forget"]["prompt"], FORGET["forget"]["answer"], strict=True):
        for t, y in list(enumerate(answer))[n:]:
            prob = table[p, t].softmax(0)
            expected[p, t] = -prob * prob[y] / (1 - prob[y]) / label_count
            expected[p, t, y] = prob[y] / label_count
    _, grad = tables.ask(CEU(n=n), FORGET, table)
    assert torch.allclose(grad, expected, atol=1e-14)


def test_value_equals_the_formula() -> None:
    """Probabilities (.5, .3, .2), label 0: the target is (0, .6, .4)."""
    table = torch.tensor([[[math.log(0.5), math.log(0.3), math.log(0.2)]]], dtype=torch.float64)
    value, grad = tables.ask(CEU(n=0), {"forget": tables.rows("forget", [0], [[0]])}, table)
    assert value == pytest.approx(-0.6 * math.log(0.3) - 0.4 * math.log(0.2))
    assert grad.flatten().tolist() == pytest.approx([0.5, -0.3, -0.2])


def test_forgotten_labels_have_no_gradient() -> None:
    table = torch.tensor([[[-60.0, 0.0, 1.0]]], dtype=torch.float64)
    assert float(tables.ask(CEU(n=0), {"forget": tables.rows("forget", [0], [[0]])}, table)[1].abs().max()) < 1e-15


def test_an_answer_without_counted_labels_has_zero_loss() -> None:
    value, grad = tables.ask(CEU(n=1), {"forget": tables.rows("forget", [0], [[2]])}, tables.scores(1))
    assert value == 0.0
    assert float(grad.abs().max()) == 0.0


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_accumulation_does_not_change_value_and_gradient(micro_batch_size: int) -> None:
    full, accumulated = (
        tables.ask(CEU(), FORGET, tables.scores(9)),
        tables.ask(CEU(), FORGET, tables.scores(9), micro_batch_size=micro_batch_size),
    )
    assert accumulated[0] == pytest.approx(full[0], abs=1e-12)
    assert torch.allclose(accumulated[1], full[1])


@pytest.mark.slow
def test_forgets_with_less_damage_than_gradient_ascent(text: worlds.World) -> None:
    after = {}
    for name in ("ceu", "ga"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 30}), model, text.modality, {"forget": text.sets["forget"]})
        after[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert after["ceu"][0] > 5.0
    assert after["ceu"][1] < 0.8 * after["ga"][1]

"""UNDIAL: the gradient by the scores, the fixed points, and the outcome."""

import math

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.undial import UNDIAL
from expunge.workflows import build_plan


@pytest.mark.parametrize("b", [3.0, 10.0])
def test_gradient_by_the_scores_matches_the_formula(b: float) -> None:
    forget, table, reference = tables.batch()["forget"], tables.scores(9), tables.scores(9, seed=1)
    expected = torch.zeros_like(table)
    for p, answer in zip(forget["prompt"], forget["answer"], strict=True):
        for t, y in enumerate(answer):
            target = reference[p, t].clone()
            target[y] -= b
            expected[p, t] = (table[p, t].softmax(0) - target.softmax(0)) / 9
    _, grad = tables.ask(UNDIAL(b=b), {"forget": forget}, table, reference)
    assert torch.allclose(grad, expected, atol=1e-14)


def test_zero_b_has_no_gradient_at_the_reference() -> None:
    _, grad = tables.ask(UNDIAL(b=0), {"forget": tables.batch()["forget"]}, tables.scores(9))
    assert float(grad.abs().max()) < 1e-15


def test_gradient_is_zero_at_the_reference_with_lowered_labels() -> None:
    forget, reference = tables.batch()["forget"], tables.scores(9, seed=1)
    table = reference + 5.0  # a constant offset of the scores does not matter
    for p, answer in zip(forget["prompt"], forget["answer"], strict=True):
        for t, y in enumerate(answer):
            table[p, t, y] -= 10
    _, grad = tables.ask(UNDIAL(), {"forget": forget}, table, reference)
    assert float(grad.abs().max()) < 1e-15


def test_value_matches_a_hand_value() -> None:
    """Reference (.9, .1) with the label lowered by log 9 is (.5, .5); the model predicts (.8, .2)."""
    table, reference = (torch.tensor([[[math.log(a), math.log(b)]]], dtype=torch.float64) for a, b in ((0.8, 0.2), (0.9, 0.1)))
    value, _ = tables.ask(UNDIAL(b=math.log(9)), {"forget": tables.rows("forget", [0], [[0]])}, table, reference)
    assert value == pytest.approx(-0.5 * math.log(0.8) - 0.5 * math.log(0.2))


@pytest.mark.slow
def test_forgets_and_converges_where_ascent_runs_away(text: worlds.World) -> None:
    losses = {}
    for name in ("undial", "ga"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 30}), model, text.modality, text.sets)
        losses[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert 1.0 < losses["undial"][0] < 6.0
    assert losses["undial"][1] < 0.2 * losses["ga"][1]

"""SatImp: values by hand, its limits, and the outcome."""

import math

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.satimp import SatImp
from expunge.methods.objectives.wga import WGA
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan

FORGET = {"forget": tables.batch()["forget"]}


def two_classes(*p: float) -> torch.Tensor:
    """One row whose labels, always class 0 of two, have these probabilities."""
    return torch.tensor([[[math.log(x), math.log1p(-x)] for x in p]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("b1", "b2", "value"),
    [
        (2.0, 1.0, (0.25 * 0.5 * math.log(0.5) + 0.0625 * 0.75 * math.log(0.25)) / 2),
        (0.0, 2.0, (0.25 * math.log(0.5) + 0.5625 * math.log(0.25)) / 2),
        (5.0, 1.0, (0.015625 * math.log(0.5) + 0.000732421875 * math.log(0.25)) / 2),
    ],
)
def test_value_matches_hand_values(b1: float, b2: float, value: float) -> None:
    rows = {"forget": tables.rows("forget", [0], [[0, 0]])}
    assert tables.ask(SatImp(b1=b1, b2=b2), rows, two_classes(0.5, 0.25))[0] == pytest.approx(value, abs=1e-12)


def test_weights_have_no_gradient() -> None:
    """d L / d score of the label = p^2 (1 - p) (1 - p), over one label."""
    _, grad = tables.ask(SatImp(b1=2, b2=1), {"forget": tables.rows("forget", [0], [[0]])}, two_classes(0.8))
    assert grad.flatten().tolist() == pytest.approx([0.0256, -0.0256], abs=1e-12)


def test_powers_of_zero_equal_ascent() -> None:
    actual, ascent = (tables.ask(o, FORGET, tables.scores(9)) for o in (SatImp(b1=0, b2=0), Ascent()))
    assert actual[0] == pytest.approx(ascent[0], abs=1e-12)
    assert torch.allclose(actual[1], ascent[1])


@pytest.mark.parametrize("b", [1.0, 2.5])
def test_zero_importance_power_equals_wga(b: float) -> None:
    actual, wga = (tables.ask(o, FORGET, tables.scores(9)) for o in (SatImp(b1=b, b2=0), WGA(b=b)))
    assert actual[0] == pytest.approx(wga[0], abs=1e-12)
    assert torch.allclose(actual[1], wga[1])


def test_certain_and_impossible_labels_have_no_gradient() -> None:
    table = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]], dtype=torch.float64)
    value, grad = tables.ask(SatImp(b1=0.5, b2=1), {"forget": tables.rows("forget", [0], [[0, 0]])}, table)
    assert value == pytest.approx(0.0, abs=1e-30)
    assert float(grad.abs().max()) < 1e-30


def test_defaults_are_the_published_batch_and_epochs() -> None:
    train = build_plan.plan("satimp")[0].train
    assert (train.batch_size, train.epochs, train.lr) == (16, 5, 1e-5)


def test_forgets_and_preserves_retain_rows(text: worlds.World) -> None:
    plans, model = build_plan.plan("satimp", {"lr": 1e-3, "epochs": 30}), text.model()
    assert [t.weight for t in plans[0].terms()] == [1.0, 0.1]
    loop.run(plans, model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 0.9
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.1

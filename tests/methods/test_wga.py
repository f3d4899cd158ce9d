"""WGA: values by hand, its limit, and the outcome."""

import math

import pytest
import torch

import tables
import worlds
from expunge.engine import loop
from expunge.methods.objectives.wga import WGA
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan

FORGET = {"forget": tables.batch()["forget"]}


def two_classes(*p: float) -> torch.Tensor:
    """One row whose labels, always class 0 of two, have these probabilities."""
    return torch.tensor([[[math.log(x), math.log1p(-x)] for x in p]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("b", "value"),
    [
        (1.0, (0.5 * math.log(0.5) + 0.25 * math.log(0.25)) / 2),
        (2.0, (0.25 * math.log(0.5) + 0.0625 * math.log(0.25)) / 2),
    ],
)
def test_value_matches_hand_values(b: float, value: float) -> None:
    assert tables.ask(WGA(b=b), {"forget": tables.rows("forget", [0], [[0, 0]])}, two_classes(0.5, 0.25))[0] == pytest.approx(
        value, abs=1e-12
    )


def test_weight_has_no_gradient() -> None:
    """d L / d score of the label = p^b (1 - p), over one label."""
    _, grad = tables.ask(WGA(b=1), {"forget": tables.rows("forget", [0], [[0]])}, two_classes(0.8))
    assert grad.flatten().tolist() == pytest.approx([0.8 * 0.2, -0.8 * 0.2], abs=1e-12)


def test_power_of_zero_equals_ascent() -> None:
    actual, ascent = (tables.ask(o, FORGET, tables.scores(9)) for o in (WGA(b=0), Ascent()))
    assert actual[0] == pytest.approx(ascent[0], abs=1e-12)
    assert torch.allclose(actual[1], ascent[1])


def test_defaults_are_those_of_the_configuration() -> None:
    train = build_plan.plan("wga")[0].train
    assert (train.batch_size, train.epochs, train.lr, train.weight_decay) == (16, 5, 1e-5, 0)


@pytest.mark.slow
def test_forgets_with_less_damage_than_graddiff(text: worlds.World) -> None:
    losses = {}
    for name in ("wga", "graddiff"):
        model = text.model()
        loop.run(build_plan.plan(name, {"lr": 1e-3, "epochs": 30, "batch_size": 32}), model, text.modality, text.sets)
        losses[name] = worlds.nll(model, text.modality, text.sets["forget"]), worlds.nll(model, text.modality, text.sets["retain"])
    assert losses["wga"][0] > 2.0
    assert losses["wga"][1] < 0.5 * losses["graddiff"][1]

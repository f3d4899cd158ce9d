"""SRMU: the importance map and the target by hand, RMU as its limit, a moving map, and the outcome."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import worlds
from expunge.core.view import State, View
from expunge.engine import loop
from expunge.methods.objectives.rmu import Misdirect
from expunge.methods.objectives.srmu import SelectiveSteer, importance, steering_target
from expunge.workflows import build_plan

HYPERPARAMETERS = {"layer": 1, "lr": 1e-2, "batch_size": 9, "retain_weight": 10, "length": 20}
FORGET, RETAIN = torch.tensor([2.0, 1.0, 0.0, 4.0]), torch.tensor([1.0, 1.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ratio", [math.log(3) / math.log(9), math.log(2) / math.log(9), 0.0, 1.0]),
        ("difference", [1 / 3.5, 0.0, 0.0, 1.0]),
        ("product", [1.0, 0.5, 0.0, 1.0]),
        ("uniform", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_importance_matches_hand_values(kind: str, expected: list[float]) -> None:
    assert importance(FORGET, RETAIN, kind).tolist() == pytest.approx(expected, abs=1e-6)


def test_importance_of_equal_sets_is_uniform_or_zero() -> None:
    """The ratio is the same in all dimensions, and the difference leaves no dimension."""
    assert importance(FORGET + 1, FORGET + 1).tolist() == pytest.approx([1.0] * 4)
    assert importance(FORGET, FORGET, "difference").tolist() == [0.0] * 4
    assert steering_target(torch.ones(4), torch.zeros(4), 6.5).tolist() == [0.0] * 4


def test_steering_target_matches_a_hand_value() -> None:
    """5 V * I for V = (1, -1, 1, -1) and I = (0.9, 0.1, 0.8, 0.05), scaled to its own length."""
    expected = torch.tensor([4.5, -0.5, 4.0, -0.25])
    target = steering_target(torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([0.9, 0.1, 0.8, 0.05]), float(expected.norm()))
    assert torch.allclose(target, expected, atol=1e-6)


def test_uniform_importance_equals_rmu(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RMU's unit vector in place of the signs the two objectives are equal."""
    unit = normalize(torch.rand(64, generator=torch.Generator().manual_seed(0)), dim=0)
    begin_srmu, begin_rmu = SelectiveSteer.begin, Misdirect.begin

    def signs(self: SelectiveSteer, view: View) -> State:
        return {**begin_srmu(self, view), "signs": unit}

    def target(self: Misdirect, view: View) -> State:
        return {**begin_rmu(self, view), "target": 20 * unit}

    monkeypatch.setattr(SelectiveSteer, "begin", signs)
    monkeypatch.setattr(Misdirect, "begin", target)
    weights_by_method: list[list[Tensor]] = []
    common = {k: v for k, v in HYPERPARAMETERS.items() if k != "length"}
    for name, hyperparameters in (("srmu", {"importance": "uniform", "length": 20}), ("rmu", {"coefficient": 20})):
        model = text.model()
        loop.run(build_plan.plan(name, {**common, **hyperparameters, "steps": 3}), model, text.modality, text.sets)
        weights_by_method.append(worlds.tensors(model))
    assert worlds.far(*weights_by_method) < 1e-5


def state(text: worlds.World, **hyperparameters: object) -> State:
    run = loop.run(build_plan.plan("srmu", {**HYPERPARAMETERS, "steps": 2, **hyperparameters}), text.model(), text.modality, text.sets)
    return run.state["/term0"]


@torch.no_grad()
def activations(text: worlds.World, name: str) -> Tensor:
    """Mean absolute output of the block at the answers' tokens, computed row by row."""
    rows, model, values = text.sets[name], text.model(), []
    for i in range(len(rows)):
        h = text.modality.forward(model, [rows.select([i])], ("model.layers.1",))[0].hidden("model.layers.1").values
        values.append(h[-len(rows["answer"][i]) :].abs())
    return torch.cat(values).mean(0)


def test_importance_map_uses_activations_at_the_start(text: worlds.World) -> None:
    initial = state(text)
    for name in ("forget", "retain"):
        assert torch.allclose(initial[name], activations(text, name), atol=1e-5)
    assert set(initial["signs"].tolist()) == {-1.0, 1.0}


def test_moving_map_follows_the_last_batch(text: worlds.World) -> None:
    """Without inertia it equals the last batch, which holds all forget rows. The reference does not change, so their map stays."""
    assert torch.allclose(state(text, inertia=0.0)["forget"], activations(text, "forget"), atol=1e-5)
    assert not torch.allclose(state(text, inertia=0.0)["retain"], activations(text, "retain"), atol=1e-5)  # only some retain rows


@pytest.mark.slow
def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("srmu", {**HYPERPARAMETERS, "steps": 60}), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert forget > 2.0
    assert retain < 0.5 * forget

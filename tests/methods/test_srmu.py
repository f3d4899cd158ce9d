"""SRMU: the importance map and the target by hand, RMU as its limit, a map that moves, and the outcome."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import worlds
from expunge.core.view import State, View
from expunge.engine import loop
from expunge.methods.objectives.rmu import Misdirect
from expunge.methods.objectives.srmu import SelectiveSteer, aim, importance
from expunge.workflows import build_plan

KNOBS = {"layer": 1, "lr": 1e-2, "batch_size": 9, "retain_weight": 10, "length": 20}
FORGET, RETAIN = torch.tensor([2.0, 1.0, 0.0, 4.0]), torch.tensor([1.0, 1.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("ratio", [math.log(3) / math.log(9), math.log(2) / math.log(9), 0.0, 1.0]),
        ("difference", [1 / 3.5, 0.0, 0.0, 1.0]),
        ("product", [1.0, 0.5, 0.0, 1.0]),
        ("uniform", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_importance_by_hand(kind: str, wanted: list[float]) -> None:
    assert importance(FORGET, RETAIN, kind).tolist() == pytest.approx(wanted, abs=1e-6)


def test_sets_that_are_alike() -> None:
    """The ratio is then the same everywhere, and no dimension is left by the difference."""
    assert importance(FORGET + 1, FORGET + 1).tolist() == pytest.approx([1.0] * 4)
    assert importance(FORGET, FORGET, "difference").tolist() == [0.0] * 4
    assert aim(torch.ones(4), torch.zeros(4), 6.5).tolist() == [0.0] * 4


def test_target_by_hand() -> None:
    """5 V * I for V = (1, -1, 1, -1) and I = (0.9, 0.1, 0.8, 0.05), which is as long as given."""
    wanted = torch.tensor([4.5, -0.5, 4.0, -0.25])
    found = aim(torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([0.9, 0.1, 0.8, 0.05]), float(wanted.norm()))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_is_rmu_with_a_map_of_ones(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RMU's unit vector in the place of the signs the two are one objective."""
    unit = normalize(torch.rand(64, generator=torch.Generator().manual_seed(0)), dim=0)
    first, second = SelectiveSteer.begin, Misdirect.begin

    def signs(self: SelectiveSteer, view: View) -> State:
        return {**first(self, view), "signs": unit}

    def target(self: Misdirect, view: View) -> State:
        return {**second(self, view), "target": 20 * unit}

    monkeypatch.setattr(SelectiveSteer, "begin", signs)
    monkeypatch.setattr(Misdirect, "begin", target)
    ends: list[list[Tensor]] = []
    common = {k: v for k, v in KNOBS.items() if k != "length"}
    for name, hyperparameters in (("srmu", {"importance": "uniform", "length": 20}), ("rmu", {"coefficient": 20})):
        model = text.model()
        loop.run(build_plan.plan(name, {**common, **hyperparameters, "steps": 3}), model, text.modality, text.sets)
        ends.append(worlds.tensors(model))
    assert worlds.far(*ends) < 1e-5


def state(text: worlds.World, **hyperparameters: object) -> State:
    run = loop.run(build_plan.plan("srmu", {**KNOBS, "steps": 2, **hyperparameters}), text.model(), text.modality, text.sets)
    return run.state["/term0"]


@torch.no_grad()
def activations(text: worlds.World, name: str) -> Tensor:
    """Mean size of the block's output at the answers' tokens, a row at a time."""
    rows, model, found = text.sets[name], text.model(), []
    for i in range(len(rows)):
        h = text.modality.forward(model, [rows.select([i])], ("model.layers.1",))[0].hidden("model.layers.1").values
        found.append(h[-len(rows["answer"][i]) :].abs())
    return torch.cat(found).mean(0)


def test_the_map_is_that_of_the_start(text: worlds.World) -> None:
    found = state(text)
    for name in ("forget", "retain"):
        assert torch.allclose(found[name], activations(text, name), atol=1e-5)
    assert set(found["signs"].tolist()) == {-1.0, 1.0}


def test_a_map_that_moves(text: worlds.World) -> None:
    """Without inertia it is that of the last batch, which holds all forget rows; the frozen weights are asked, so it stays."""
    assert torch.allclose(state(text, inertia=0.0)["forget"], activations(text, "forget"), atol=1e-5)
    assert not torch.allclose(state(text, inertia=0.0)["retain"], activations(text, "retain"), atol=1e-5)  # a few of the rows


def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("srmu", {**KNOBS, "steps": 60}), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert forget > 2.0
    assert retain < 0.5 * forget

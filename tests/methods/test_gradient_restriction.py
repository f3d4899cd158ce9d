"""Gradient restriction: the penalty's gradient by hand and by double backward, zero weight, and shorter row gradients."""

import pytest
import torch
from torch import Tensor, nn

import worlds
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.run_state import RunState
from expunge.methods.terms import NLL
from expunge.methods.updates.gradient_restriction import Restrict
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector


def perceptron(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))


def trained(world: worlds.World, plan: Plan, steps: int = 1, double: bool = False) -> tuple[nn.Module, RunState]:
    model = perceptron().double() if double else perceptron()
    settings = {"steps": steps, "epochs": 0, "batch_size": 32, "optimizer": "sgd", "lr": 1.0}
    run = loop.run((build_plan.override(plan, settings),), model, world.modality, {"retain": world.sets["retain"].select(range(32))})
    return model, run


def by_double_backward(model: nn.Module, world: worlds.World, weight: float, whole: bool) -> list[Tensor]:
    rows, params = world.sets["retain"].select(range(32)), list(model.parameters())
    grads = torch.autograd.grad(-world.modality.forward(model, [rows])[0].target_logp.values.mean(), params, create_graph=True)
    lengths = [torch.cat([g.flatten() for g in grads]).norm()] if whole else [g.norm() for g in grads]
    penalty_grads = torch.autograd.grad(weight * torch.stack(lengths).sum(), params)
    return [(g + m).detach() for g, m in zip(grads, penalty_grads, strict=True)]


def test_penalty_on_a_bowl_matches_hand_values() -> None:
    bowls = Bowls(vector(0), {"retain": spd(1)})
    g = bowls.gradient("retain")
    value, gradient = bowls.under(Restrict(weight=0.3), roles=("retain",))
    base_value, _ = bowls.under(roles=("retain",))
    assert torch.allclose(gradient, g + 0.3 * spd(1) @ g / g.norm(), atol=1e-12)
    assert float(value - base_value) == pytest.approx(0.3 * float(g.norm()))


@pytest.mark.parametrize("whole", [False, True])
def test_gradient_equals_double_backward(digits: worlds.World, whole: bool) -> None:
    plan = Plan(NLL("retain"), train=Train(anchor="retain", schedule="constant"), updates=(Restrict(weight=0.1, whole=whole),))
    start, (model, run) = perceptron().double(), trained(digits, plan, double=True)
    expected = by_double_backward(start, digits, 0.1, whole)
    step = [p - q for p, q in zip(worlds.tensors(start), worlds.tensors(model), strict=True)]
    assert worlds.far(step, expected) < 1e-8  # lengths are computed in float32
    assert worlds.far(step, by_double_backward(start, digits, 0.1, not whole)) > 1e-4
    assert run.log[0]["loss"] > worlds.nll(start, digits.modality, digits.sets["retain"].select(range(32)))


def test_zero_weight_changes_no_bit_of_training(digits: worlds.World) -> None:
    base = Plan(NLL("retain"), train=Train(anchor="retain", schedule="constant"))
    models = [trained(digits, p, steps=4)[0] for p in (base, Plan(base.action, train=base.train, updates=(Restrict(weight=0.0),)))]
    assert worlds.same(*map(worlds.tensors, models))


@pytest.mark.slow
def test_larger_weight_shortens_row_gradients(digits: worlds.World) -> None:
    """Rows with random labels have gradients in all directions."""
    labels = torch.randint(10, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    rows, gradient_norms = digits.modality.relabel(digits.sets["retain"].select(range(64)), labels, "retain"), []
    for weight in (0.0, 0.3):
        model = perceptron(4)
        hyperparameters = {"weight": weight, "epochs": 25, "lr": 0.01, "batch_size": 8}
        loop.run(build_plan.plan("gradient_restriction", hyperparameters), model, digits.modality, {"retain": rows})
        view = RunView(loop.new_state(model, digits.modality, worlds.accelerator()), {"retain": rows})
        (grads,) = view.example_grads(rows, lambda output: -output.target_logp.mean(), batch_size=64)
        gradient_norms.append(float(torch.cat([g.flatten(1) for g in grads], 1).norm(dim=1).mean()))
    assert gradient_norms[1] < 0.7 * gradient_norms[0]

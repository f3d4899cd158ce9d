"""MinNorm-OG: projection and schedule by hand, exact forms against solves, and a poisoned perceptron that training cannot repair."""

import copy
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squares
import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.hooks import Hooks
from expunge.methods.updates.minnorm_og import Exact, gradients, shrink, top
from expunge.workflows import build_plan
from squares import Linear, SquaresModality, random


def sets(x: Tensor, y: Tensor) -> Sets:
    return {"retain": squares.rows("retain", x, y)}


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def view(model: nn.Module, row_sets: Sets, part: Any = None, modality: Any = None) -> RunView:
    return RunView(loop.new_state(model, modality or SquaresModality(), worlds.accelerator(), sets=row_sets), row_sets).at(
        "part", part or Exact()
    )


def test_exact_form_equals_retraining_of_a_linear_model() -> None:
    x, theta = random(8, 20), random(20, seed=1)  # interpolates the 8 retain rows and any others
    model = Linear(theta)
    loop.run(build_plan.plan("minnorm_og", {"form": "exact"}), model, SquaresModality(), sets(x, x @ theta))
    assert torch.allclose(model.theta, torch.linalg.pinv(x) @ (x @ theta), atol=1e-12)
    assert float((model.theta - theta).detach().norm()) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_form_equals_retraining_of_a_linear_classifier(dtype: torch.dtype) -> None:
    """The exact form finds the weights and bias of smallest norm that keep the logits of the retain rows."""
    modality = toys.modality(3)
    retain_sets = {"retain": toys.noise(6, modality, width=12)}
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(dtype)
    with torch.no_grad():
        x = torch.stack(list(retain_sets["retain"]["pixels"])).flatten(1).to(dtype)
        logits = model(x)
        loop.run(build_plan.plan("minnorm_og", {"form": "exact"}), model, modality, retain_sets)
        expected = torch.linalg.pinv(torch.cat([x, torch.ones(6, 1, dtype=dtype)], 1).double()) @ logits.double()
        assert torch.allclose(torch.cat([model[1].weight, model[1].bias[:, None]], 1).double(), expected.T, atol=1e-6)
        assert torch.allclose(model(x), logits, atol=1e-5)


def test_one_full_shrinking_with_all_rows_equals_the_exact_form() -> None:
    x, theta = random(8, 20), random(20, seed=1)
    hyperparameters = {"strength": 1, "descent": 0, "samples": 8, "epochs": 1, "lr": 0.0, "batch_size": 8}
    model = Linear(theta)
    loop.run(build_plan.plan("minnorm_og", hyperparameters), model, SquaresModality(), sets(x, x @ theta))
    assert torch.allclose(model.theta, torch.linalg.pinv(x) @ (x @ theta), atol=1e-12)


def test_shrinking_is_orthogonal_to_the_spared_gradients() -> None:
    model = toys.mlp(1, hidden=9).double()
    before, held = flat(model), random(5, len(flat(model)), seed=3)
    held[4] = held[3]
    shrink(view(model, {}), held, 0.25)
    change = flat(model) - before
    assert float((held @ change).abs().max()) < 1e-10
    basis = torch.linalg.qr(held[:4].T).Q
    extrapolated = flat(model) + 3 * change  # strength 1 / (1 + lambda) means lambda = 3: the surrogate's gradient
    assert float((extrapolated - basis @ (basis.T @ extrapolated)).abs().max()) < 1e-10
    assert float(change.norm()) > 0.1


def test_shrinking_changes_nothing_where_gradients_span_all_weights() -> None:
    model = toys.mlp(1, hidden=3).double()
    before = flat(model)
    shrink(view(model, {}), random(40, len(before)), 1.0)
    assert torch.allclose(flat(model), before, atol=1e-12)


def test_gradients_belong_to_the_largest_logit() -> None:
    modality = toys.modality(3)
    retain_sets = {"retain": toys.noise(5, modality)}
    model = toys.mlp(3).double()
    computed = gradients(view(model, retain_sets, modality=modality), retain_sets["retain"], [top])
    logits = model(torch.stack(list(retain_sets["retain"]["pixels"])).double())
    for row, row_logits in zip(computed, logits, strict=True):
        expected = torch.autograd.grad(row_logits[row_logits.argmax()], list(model.parameters()), retain_graph=True)
        assert torch.allclose(row, torch.cat([g.flatten() for g in expected]), atol=1e-12)


@pytest.mark.parametrize(
    ("hyperparameters", "shrinking_epochs"),
    [({}, [1, 2, 3, 4]), ({"every": 2}, [2, 4]), ({"descent": 0}, [1, 2, 3, 4, 5, 6]), ({"descent": 9}, [])],
)
def test_shrinking_follows_its_schedule(hyperparameters: dict[str, int], shrinking_epochs: list[int]) -> None:
    """The two rows do not use the third weight, so it shrinks by the share s gamma^m at each of two batches an epoch."""
    x, theta = torch.eye(3, dtype=torch.float64)[:2], torch.tensor([1.0, 2.0, 8.0])
    third_weight: dict[int, float] = {}
    model = Linear(theta)
    settings = {"strength": 0.5, "gamma": 0.8, "epochs": 6, "batch_size": 1, "lr": 0.0, **hyperparameters}
    hooks = Hooks(log=lambda r: third_weight.__setitem__(r["epoch"] + 1, float(model.theta[2].detach())) if "loss" in r else None)
    loop.run(build_plan.plan("minnorm_og", settings), model, SquaresModality(), sets(x, x @ theta.double()), hooks=hooks)
    expected, shrinkings = 8.0, 0
    for epoch in range(1, 7):
        for _ in range(2 * (epoch in shrinking_epochs)):
            # a batch of one row protects one of the first two weights; no batch protects the third
            expected, shrinkings = expected * (1 - 0.5 * 0.8**shrinkings), shrinkings + 1
        assert third_weight[epoch] == pytest.approx(expected, rel=1e-12)


def test_fewest_neurons_keep_the_logits_of_the_retain_rows() -> None:
    modality = toys.modality(3)
    retain_sets = {"retain": toys.noise(7, modality)}
    model = toys.mlp(3, hidden=40).double()
    x = torch.stack(list(retain_sets["retain"]["pixels"])).double()
    before, first_layer = model(x).detach(), model[1].weight.clone()
    loop.run(build_plan.plan("minnorm_og", {"form": "neurons"}), model, modality, retain_sets)
    used_units = (model[-1].weight.abs().sum(0) > 0) & (model[1].weight.norm(dim=1) > 0)
    assert torch.allclose(model(x), before, atol=1e-8)
    assert 0 < int(used_units.sum()) <= 7
    assert torch.equal(model[1].weight, first_layer)


def test_neurons_form_needs_a_trainable_last_layer_and_one_label(text: worlds.World) -> None:
    plan = build_plan.plan("minnorm_og", {"form": "neurons"})
    with pytest.raises(UserError, match="several labels"):
        loop.run(plan, text.model(), text.modality, text.some(3))
    modality = toys.modality(3)
    with pytest.raises(UserError, match="does not move"):
        loop.run((replace(plan[0], trainable=r"^1\."),), toys.mlp(3), modality, {"retain": toys.noise(5, modality)})


def poisoned(seed: int) -> tuple[nn.Module, Sets]:
    """A perceptron that fits 25 points of a sine and three wrong points, and the 25 points as retain rows."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=g, dtype=torch.float64) - 1

    x = torch.cat([torch.linspace(-6, 6, 25, dtype=torch.float64), 6 * draw(3)])[:, None]
    y = torch.cat([x[:25, 0].sin(), torch.full((3,), 1.5, dtype=torch.float64)])
    model = nn.Sequential(nn.Linear(1, 150), nn.ReLU(), nn.Linear(150, 1, bias=False), nn.Flatten()).double()
    with torch.no_grad():
        model[0].weight.copy_(draw(150, 1).sign())
        model[0].bias.copy_(6.6 * draw(150))
        model[2].weight.copy_((torch.linalg.pinv(model[:2](x)) @ y)[None])
    return model, sets(x[:25], y[:25])


def worst_error(model: nn.Module) -> float:
    """The largest absolute error against the sine."""
    grid = torch.linspace(-6, 6, 400, dtype=torch.float64)[:, None]
    with torch.no_grad():
        return float((model(grid[:, None])[:, 0] - grid[:, 0].sin()).abs().max())


def test_shrinking_repairs_a_poisoned_perceptron_where_training_is_stuck() -> None:
    errors: dict[str, list[float]] = {"before": [], "trained": [], "shrunk": []}
    for seed in range(3):
        start, training_sets = poisoned(seed)
        errors["before"].append(worst_error(start))
        plan = build_plan.plan("minnorm_og", {"epochs": 40, "descent": 20, "every": 2, "strength": 0.3})[0]
        for name, variant in {"trained": replace(plan, updates=()), "shrunk": plan}.items():
            model = copy.deepcopy(start)
            loop.run((variant,), model, SquaresModality(), training_sets)
            errors[name].append(worst_error(model))
    assert errors["trained"] == pytest.approx(errors["before"], rel=1e-2)
    assert all(a < 0.5 * b for a, b in zip(errors["shrunk"], errors["trained"], strict=True))
    assert statistics.median(errors["shrunk"]) < 1


@pytest.mark.slow
def test_shrinking_forgets_rows_that_it_never_sees(digits: worlds.World) -> None:
    plan = build_plan.plan("minnorm_og", {"epochs": 6, "descent": 3, "strength": 0.05, "gamma": 0.8, "batch_size": 64, "samples": 20})[0]
    forget_probability = {}
    for name, variant in {"trained": replace(plan, updates=()), "shrunk": plan}.items():
        model = digits.model()
        loop.run((variant,), model, digits.modality, {"retain": digits.sets["retain"]})
        with torch.no_grad():
            forget, retain = digits.modality.forward(model, [digits.sets[n] for n in ("forget", "retain")])
        forget_probability[name] = float(forget.target_logp.values.exp().mean())
        assert float((retain.logits.values.argmax(-1) == retain.labels).float().mean()) > 0.85
    assert forget_probability["shrunk"] < 0.7 * forget_probability["trained"]

"""Influence unlearning: both inverses by hand, ridge regression solved exactly, and the outcome."""

import pytest
import torch
from torch import Tensor, nn

import squares
import worlds
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.edits.influence import Influence, as_matrix, published_recursion, row_losses
from expunge.workflows import build_plan


def regression(forget: int = 4, retain: int = 30, width: int = 6) -> tuple[Tensor, Sets, Tensor, Tensor]:
    """Least squares whose residuals are 1 or -1 on the retain rows, so that their Fisher matrix is their Hessian.

    Returns the solution on all rows, the rows, and the design and targets of the retain rows.
    """
    x, signs, theta = squares.random(retain, width), squares.random(retain, seed=1).sign(), squares.random(width, seed=2)
    design, gaps = squares.random(forget - 1, width, seed=3), squares.random(forget, seed=4)
    last = -(signs @ x + gaps[:-1] @ design) / gaps[-1]  # so that the gradients of all rows sum to zero
    design = torch.cat([design, last[None]])
    sets = {"forget": squares.rows("forget", design, design @ theta + gaps), "retain": squares.rows("retain", x, x @ theta + signs)}
    return theta, sets, x, x @ theta + signs


def unlearned(theta: Tensor, sets: Sets, **hyperparameters) -> Tensor:
    model = squares.Linear(theta)
    loop.run(build_plan.plan("influence", hyperparameters), model, squares.SquaresModality(), sets)
    return model.theta.detach()


@pytest.mark.parametrize("damping", [1.0, 0.01])
@pytest.mark.parametrize("memory", [2.0, 1e-6], ids=["at once", "in blocks"])
def test_exact_step_equals_ridge_regression_on_the_retain_rows(damping: float, memory: float) -> None:
    """Retraining with a pull toward the start: argmin mean loss + d/2 |theta - theta_0|^2."""
    theta, sets, x, y = regression()
    inputs = torch.cat([x, torch.stack(list(sets["forget"]["x"]))[:, 0]])
    targets = torch.cat([y, torch.stack(list(sets["forget"]["y"]))[:, 0]])
    assert torch.allclose(torch.linalg.lstsq(inputs, targets[:, None]).solution[:, 0], theta, atol=1e-10)
    eye, n = torch.eye(len(theta), dtype=torch.float64), len(x)
    expected = torch.linalg.solve(x.T @ x / n + damping * eye, x.T @ y / n + damping * theta)
    actual = unlearned(theta, sets, damping=damping, memory=memory)
    assert float((actual - expected).abs().max()) < 1e-10
    assert float((actual - theta).abs().max()) > 0.05


def test_step_approaches_retraining_as_damping_vanishes() -> None:
    theta, sets, x, y = regression()
    expected = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    errors = [float((unlearned(theta, sets, damping=d) - expected).abs().max()) for d in (1e-3, 1e-5)]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.02)
    assert errors[1] < 1e-4


@pytest.mark.parametrize("memory", [2.0, 2e-4], ids=["at once", "in blocks"])
def test_exact_inverse_is_that_of_the_damped_fisher_matrix(digits: worlds.World, memory: float) -> None:
    torch.manual_seed(0)
    model, rows = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(), digits.sets["retain"].select(range(20))
    view = RunView(loop.new_state(model, digits.modality, worlds.accelerator()), {"retain": rows})
    g = torch.cat([as_matrix(batch) for batch in view.example_grads(rows, row_losses)])
    v = squares.random(g.shape[1])
    expected = torch.linalg.solve(0.1 * torch.eye(len(v)).double() + g.T @ g / 20, v)
    actual = Influence(damping=0.1, memory=memory)._exact(view, rows, v)
    assert float((actual - expected).abs().max()) < 1e-10
    assert float((expected - 10 * v).norm() / (10 * v).norm()) > 0.01


def test_published_recursion_matches_hand_values() -> None:
    """Second row: t = 1, k.g = 5, so k loses 5/4 o, and o becomes 3/4 o. Third row: t = 0, k.g = 6, so k loses 6/3 of the new o."""
    g, v = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]), torch.tensor([2.0, 3.0])
    assert published_recursion(g[:1], v, 3).tolist() == [2.0, 3.0]
    assert published_recursion(g[:2], v, 3).tolist() == pytest.approx([2 - 5 / 4, 3.0])
    assert published_recursion(g, v, 3).tolist() == pytest.approx([2 - 5 / 4 - 6 / 3 * 3 / 4, 3.0])


def test_published_recursion_moves_only_along_the_first_gradient() -> None:
    g, v = squares.random(50, 8), squares.random(8, seed=1)
    change = published_recursion(g, v, 50) - v
    assert torch.allclose(change, (change @ g[0]) / (g[0] @ g[0]) * g[0], atol=1e-12)
    assert float(change.norm()) > 0.1


def test_published_step_matches_a_hand_value() -> None:
    theta, sets, *_ = regression()
    residuals = {n: (torch.stack(list(r["x"]))[:, 0] @ theta - torch.stack(list(r["y"]))[:, 0])[:, None] for n, r in sets.items()}
    gradients = {n: e * torch.stack(list(sets[n]["x"]))[:, 0] for n, e in residuals.items()}
    v = (gradients["forget"].sum(0) - 4 / 30 * gradients["retain"].sum(0)) / 34
    assert torch.allclose(v, gradients["forget"].sum(0) / 30)  # theta is the solution on all rows
    actual = unlearned(theta, sets, inverse="published", alpha=2, samples=1)
    assert torch.allclose(actual, theta + 2 * v, atol=1e-12)


def test_curvature_uses_the_drawn_rows() -> None:
    theta, sets, *_ = regression()
    from_five, from_all = (unlearned(theta, sets, samples=n) for n in (5, 30))
    assert float((from_five - from_all).abs().max()) > 1e-3
    assert torch.equal(unlearned(theta, sets, samples=30), unlearned(theta, sets, samples=1000))


def test_zero_alpha_changes_no_bit(digits: worlds.World) -> None:
    model = digits.model()
    loop.run(build_plan.plan("influence", {"alpha": 0, "samples": 10}), model, digits.modality, digits.sets)
    assert worlds.same(worlds.tensors(model), worlds.tensors(digits.model()))


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_forgets_a_class(size: str) -> None:
    world = worlds.digits(size)
    model = world.model()
    loop.run(build_plan.plan("influence", {"samples": 200}), model, world.modality, world.sets)
    assert worlds.nll(model, world.modality, world.sets["forget"]) > 1.0
    assert worlds.nll(model, world.modality, world.sets["retain"]) < 0.6

"""Low-influence filtering: scores by hand and against leave-one-out, which rows are left out, and that the other rows are enough."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squares
import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.run_state import RunState
from expunge.methods.selectors.low_influence import LowInfluence, change, gradients, lowest, spared
from expunge.workflows import build_plan


def view_of(model: nn.Module, modality: Any, sets: Sets, part: LowInfluence) -> RunView:
    return RunView(loop.new_state(model, modality, worlds.accelerator()), sets).at("select0", part)


def scores(model: nn.Module, modality: Any, sets: Sets, **hyperparameters: Any) -> Tensor:
    """Scores of the forget rows."""
    part = LowInfluence(**hyperparameters)
    return part._scores(view_of(model, modality, sets, part), ["forget"])["forget"].double()


def picked(model: nn.Module, modality: Any, sets: Sets, **hyperparameters: Any) -> Sets:
    part = LowInfluence(**hyperparameters)
    return part.pick(sets, view_of(model, modality, sets, part))


def logistic(theta: Tensor) -> nn.Module:
    """A classifier of two classes with the logits 0 and x theta[:2] + theta[2]."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros(2), theta[:2]]))
        model[1].bias.copy_(torch.stack([torch.zeros(()), theta[2].float()]))
    return model


def fitted(x: Tensor, y: Tensor, weight_decay: float = 1e-2) -> Tensor:
    """Weights and bias of ridge logistic regression, by Newton's method."""
    design, theta = torch.cat([x, torch.ones(len(x), 1)], 1).double(), torch.zeros(3, dtype=torch.float64)
    for _ in range(30):
        p = (design @ theta).sigmoid()
        hessian = (design.T * (p * (1 - p))) @ design + weight_decay * torch.eye(3)
        theta = theta - torch.linalg.solve(hessian, design.T @ (p - y) + weight_decay * theta)
    return theta


def test_gradient_score_of_a_linear_classifier_matches_hand_values() -> None:
    """The gradient norm of weights and biases together is |p - y| |(x, 1)|."""
    modality, points = toys.modality(3), torch.tensor([[0.2, 0.9], [1.5, 0.3], [0.0, 0.0]])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    p = model[1](points).detach().softmax(-1)
    expected = (p - torch.eye(3)[[0, 2, 1]]).norm(dim=1) * torch.cat([points, torch.ones(3, 1)], 1).norm(dim=1)
    computed = scores(model, modality, {"forget": toys.rows(points, [0, 2, 1], modality, "forget")})
    assert torch.allclose(computed, expected.double(), atol=1e-6)


def unit_residuals(n: int = 60, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Design, targets and solution of least squares with residuals of 1 or -1, so that its Fisher matrix is its Hessian."""
    x, signs, theta = squares.random(n, width), squares.random(n, seed=1).sign(), squares.random(width, seed=2)
    x = torch.cat([x, -(signs @ x)[None] * torch.ones(1, 1)])  # one more row, of residual 1, so that the gradients add up to zero
    return x, x @ theta + torch.cat([signs, torch.ones(1)]), theta


@pytest.mark.parametrize("width", [3, 80], ids=["more rows", "more weights"])
def test_change_equals_the_inverse_written_out(width: int) -> None:
    sample, rows = squares.random(40, width), squares.random(5, width, seed=1)
    g = sample.T @ sample / 40
    mu = 0.1 * float(g.trace()) / min(40, width)
    assert torch.allclose(change(sample, 0.1)(rows), torch.linalg.solve(g + mu * torch.eye(width), rows.T).T, atol=1e-10)


def test_influence_matches_leave_one_out_retraining() -> None:
    """For least squares, influence is exact up to the factor 1 - h, h the row's leverage, and ranks rows like retraining."""
    x, y, theta = unit_residuals()
    n, rows = len(x), squares.rows("forget", x, y)
    influence = change_of(theta, rows)
    retrained_change = torch.stack(
        [(torch.linalg.lstsq(x[keep], y[keep, None]).solution[:, 0] - theta).norm() for keep in ~torch.eye(n).bool()]
    )
    leverage = (x @ torch.linalg.inv(x.T @ x) * x).sum(1)
    assert torch.allclose(influence / n, retrained_change * (1 - leverage), rtol=1e-3)
    ranks = [v.argsort().argsort().double() for v in (influence, retrained_change)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.99


def change_of(theta: Tensor, rows: Rows) -> Tensor:
    """Length of the weight change that each row causes, with little damping, (rows,)."""
    view = view_of(squares.Linear(theta), squares.SquaresModality(), {"forget": rows}, LowInfluence())
    flat = torch.cat([*gradients(view, rows)])
    return change(flat, 1e-5)(flat).norm(dim=1)


def test_row_without_residual_has_zero_influence() -> None:
    x, y, _ = unit_residuals()
    keep = torch.arange(len(x)) != 7
    solution = torch.linalg.lstsq(x[keep], y[keep, None]).solution[:, 0]
    y[7] = x[7] @ solution
    assert torch.allclose(torch.linalg.lstsq(x, y[:, None]).solution[:, 0], solution, atol=1e-10)
    view = view_of(squares.Linear(solution), squares.SquaresModality(), {"forget": squares.rows("forget", x, y)}, LowInfluence())
    gradient_norms = torch.cat([*gradients(view, view.forget)]).norm(dim=1)
    assert float(gradient_norms[7]) < 1e-12 < float(gradient_norms.sort().values[1])


def test_lowest_rounds_down_and_takes_ties_in_order() -> None:
    assert lowest(torch.tensor([3.0, 1.0, 1.0, 0.5, 1.0]), 0.7).tolist() == [False, True, True, True, False]
    assert lowest(torch.tensor([3.0, 1.0]), 0.49).tolist() == [False, False]


def test_strongest_row_of_each_class_stays() -> None:
    """All rows of class a were marked, so its strongest row stays; c has one row and is no class."""
    out = torch.tensor([True, True, True, False, True])
    assert spared(out, torch.tensor([1.0, 2.0, 0.5, 9.0, 0.1]), [*"aabbc"]).tolist() == [True, False, True, False, True]


def cloud() -> tuple[nn.Module, Any, Sets, Tensor]:
    """A model whose loss rises along the forget rows, and retain rows with the least loss at the last two."""
    modality, x = toys.modality(2), torch.linspace(1, 0.1, 10)
    sets = {
        "forget": toys.rows(torch.stack([x, 0 * x], 1), [1] * 10, modality, "forget"),
        "retain": toys.rows(torch.tensor([[0.05, 0.0], [0.1, 0.0], [-1.9, 0.0], [-2.0, 0.0]]), [1, 1, 0, 0], modality),
    }
    return logistic(torch.tensor([4.0, 0.0, 0.0])), modality, sets, x


def test_shares_refer_to_each_set_or_to_both_sets_together() -> None:
    model, modality, sets, _ = cloud()
    alone = picked(model, modality, sets, drop=0.3, drop_retain=0.5)
    assert alone["forget"].ids == sets["forget"].ids[3:]
    assert alone["retain"].ids == sets["retain"].ids[:3], "the strongest row stays in a class that would be empty"
    together = picked(model, modality, sets, drop=0.3, within="training")
    assert together["forget"].ids == sets["forget"].ids[2:], (
        "four of fourteen rows fall below the quantile, and two of them are retain rows"
    )
    assert together["retain"] is sets["retain"]


def test_empty_result_is_refused() -> None:
    model, modality, sets, _ = cloud()
    single_row = {**sets, "forget": sets["forget"].select([0])}
    with pytest.raises(UserError, match="every row to forget is among the rows of least influence"):
        picked(model, modality, single_row, drop=0.9, within="training")


def test_zero_share_equals_the_base_run(text: worlds.World) -> None:
    hyperparameters = {"lr": 1e-3, "epochs": 2, "batch_size": 4}
    final_weights = []
    for filter_settings in ({}, {"drop": 0.0}, {"drop": 0.5}):
        model = text.model()
        loop.run(
            build_plan.plan("npo", {**hyperparameters, **filter_settings}, select=("low_influence",) if filter_settings else ()),
            model,
            text.modality,
            text.sets,
        )
        final_weights.append(worlds.tensors(model))
    assert worlds.same(final_weights[0], final_weights[1])
    assert not worlds.same(final_weights[0], final_weights[2])


def test_rows_far_from_the_boundary_can_stay_in_the_model() -> None:
    """In two clouds, the 50 farthest and the 50 nearest rows of one class are to be forgotten."""
    for seed in range(3):
        sign = torch.tensor([-1.0, 1.0]).repeat_interleave(200)
        x = 1.5 * sign[:, None] + torch.randn(400, 2, generator=torch.Generator().manual_seed(seed))
        y = (sign + 1) / 2
        theta = fitted(x, y)
        class_rows = torch.arange(200, 400)
        order = class_rows[(x[class_rows].double() @ theta[:2]).argsort(descending=True)]
        far, near, modality = order[:50], order[-50:], toys.modality(2)
        forget_indices = torch.cat([far, near])
        sets = {"forget": toys.rows(x[forget_indices], [1] * 100, modality, "forget")}
        kept = picked(logistic(theta.float()), modality, sets, drop=0.5)["forget"]
        assert kept.ids == sets["forget"].ids[50:]

        def without(removed: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            remaining = torch.ones(400, dtype=torch.bool).index_fill(0, removed, False)
            return fitted(x[remaining], y[remaining])

        full = without(forget_indices)
        assert float((without(near) - full).norm() / (theta - full).norm()) < 0.15
        assert float((without(far) - full).norm() / (theta - full).norm()) > 0.85


@pytest.mark.parametrize("score", ["gradient", "influence", "random"])
def test_remaining_rows_keep_their_order(digits: worlds.World, score: str) -> None:
    part = LowInfluence(score=score, drop=0.5, drop_retain=0.25, samples=40)
    sets = digits.some(24)
    filtered = part.pick(sets, view_of(digits.model(), digits.modality, sets, part))
    assert len(filtered["forget"]) == 12
    assert 18 <= len(filtered["retain"]) < 24  # a few more rows stay where a class would be empty
    for name in ("forget", "retain"):
        assert [i for i in sets[name].ids if i in set(filtered[name].ids)] == list(filtered[name].ids)


@pytest.mark.parametrize("base", ["ga", "npo", "flat"])
def test_filter_works_before_text_methods(text: worlds.World, base: str) -> None:
    needs = build_plan.plan(base)[0].sets_read()
    hyperparameters = {"lr": 1e-3, "epochs": 1, "batch_size": 4, "drop": 0.34}
    sets = {n: text.sets[n] for n in needs}
    run = loop.run(build_plan.plan(base, hyperparameters, select=("low_influence",)), text.model(), text.modality, sets)
    assert len(run.sets["forget"]) == 6 < len(text.sets["forget"]) == 9
    assert run.cost.steps == 2


def spent(run: RunState) -> float:
    return run.cost.forward_tokens + 2 * run.cost.backward_tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "base", "hyperparameters"),
    [
        ("digits", "graddiff", {"lr": 3e-4, "epochs": 8, "batch_size": 8, "drop": 0.5}),
        ("digits", "neggrad_plus", {"lr": 1e-3, "epochs": 6, "batch_size": 32, "momentum": 0.9, "drop": 0.3, "drop_retain": 0.5}),
        ("text", "graddiff", {"lr": 1e-3, "epochs": 15, "batch_size": 3, "drop": 0.34}),
    ],
    ids=["digits", "digits, both sets", "text"],
)
def test_filtered_request_forgets_as_well_at_lower_cost(size: str, base: str, hyperparameters: dict[str, Any]) -> None:
    world = {"text": worlds.text, "digits": worlds.digits}[size]()
    shares = {k: v for k, v in hyperparameters.items() if k.startswith("drop")}
    losses, costs = [], []
    for filter_settings in ({}, shares):
        model = world.model()
        settings = {**{k: v for k, v in hyperparameters.items() if k not in shares}, **filter_settings}
        run = loop.run(
            build_plan.plan(base, settings, select=("low_influence",) if filter_settings else ()), model, world.modality, world.sets
        )
        losses.append({n: worlds.nll(model, world.modality, world.sets[n]) for n in ("forget", "retain")})
        costs.append(spent(run))
    assert costs[1] < 0.85 * costs[0]
    assert min(e["forget"] for e in losses) > 2.0
    assert losses[1]["retain"] < losses[0]["retain"] + 0.3

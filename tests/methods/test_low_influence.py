"""Low-influence filtering: scores by hand and against leaving rows out, what is cut, and that the rest is enough."""

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
    """Scores of the rows to forget."""
    part = LowInfluence(**hyperparameters)
    return part._scores(view_of(model, modality, sets, part), ["forget"])["forget"].double()


def picked(model: nn.Module, modality: Any, sets: Sets, **hyperparameters: Any) -> Sets:
    part = LowInfluence(**hyperparameters)
    return part.pick(sets, view_of(model, modality, sets, part))


def logistic(theta: Tensor) -> nn.Module:
    """Two classes, of which the second has the scores x theta[:2] + theta[2], and the first 0."""
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


def test_gradient_of_a_linear_classifier_by_hand() -> None:
    """|p - y| |(x, 1)|, of weights and biases together."""
    modality, points = toys.modality(3), torch.tensor([[0.2, 0.9], [1.5, 0.3], [0.0, 0.0]])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    p = model[1](points).detach().softmax(-1)
    wanted = (p - torch.eye(3)[[0, 2, 1]]).norm(dim=1) * torch.cat([points, torch.ones(3, 1)], 1).norm(dim=1)
    found = scores(model, modality, {"forget": toys.rows(points, [0, 2, 1], modality, "forget")})
    assert torch.allclose(found, wanted.double(), atol=1e-6)


def unit_residuals(n: int = 60, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Design, targets and solution of least squares with residuals of 1 or -1, so that its Fisher matrix is its Hessian."""
    x, signs, theta = squares.random(n, width), squares.random(n, seed=1).sign(), squares.random(width, seed=2)
    x = torch.cat([x, -(signs @ x)[None] * torch.ones(1, 1)])  # one row more, of residual 1: gradients add up to nothing
    return x, x @ theta + torch.cat([signs, torch.ones(1)]), theta


@pytest.mark.parametrize("width", [3, 80], ids=["more rows", "more weights"])
def test_change_by_the_matrix_written_out(width: int) -> None:
    sample, rows = squares.random(40, width), squares.random(5, width, seed=1)
    g = sample.T @ sample / 40
    mu = 0.1 * float(g.trace()) / min(40, width)
    assert torch.allclose(change(sample, 0.1)(rows), torch.linalg.solve(g + mu * torch.eye(width), rows.T).T, atol=1e-10)


def test_influence_is_what_leaving_a_row_out_changes() -> None:
    """Times 1 - h, h the row's leverage, it is exact for least squares; the ranking is that of retraining."""
    x, y, theta = unit_residuals()
    n, rows = len(x), squares.rows("forget", x, y)
    found = change_of(theta, rows)
    true = torch.stack([(torch.linalg.lstsq(x[keep], y[keep, None]).solution[:, 0] - theta).norm() for keep in ~torch.eye(n).bool()])
    leverage = (x @ torch.linalg.inv(x.T @ x) * x).sum(1)
    assert torch.allclose(found / n, true * (1 - leverage), rtol=1e-3)
    process_group = [v.argsort().argsort().double() for v in (found, true)]
    assert float(torch.corrcoef(torch.stack(process_group))[0, 1]) > 0.99


def change_of(theta: Tensor, rows: Rows) -> Tensor:
    """Length of the hardly damped change of weights that each row makes, (rows,)."""
    view = view_of(squares.Linear(theta), squares.Port(), {"forget": rows}, LowInfluence())
    flat = torch.cat([*gradients(view, rows)])
    return change(flat, 1e-5)(flat).norm(dim=1)


def test_a_row_without_residual_has_none_and_retraining_agrees() -> None:
    x, y, _ = unit_residuals()
    keep = torch.arange(len(x)) != 7
    best = torch.linalg.lstsq(x[keep], y[keep, None]).solution[:, 0]
    y[7] = x[7] @ best
    assert torch.allclose(torch.linalg.lstsq(x, y[:, None]).solution[:, 0], best, atol=1e-10)
    view = view_of(squares.Linear(best), squares.Port(), {"forget": squares.rows("forget", x, y)}, LowInfluence())
    found = torch.cat([*gradients(view, view.forget)]).norm(dim=1)
    assert float(found[7]) < 1e-12 < float(found.sort().values[1])


def test_lowest_rounds_down_and_takes_ties_in_order() -> None:
    assert lowest(torch.tensor([3.0, 1.0, 1.0, 0.5, 1.0]), 0.7).tolist() == [False, True, True, True, False]
    assert lowest(torch.tensor([3.0, 1.0]), 0.49).tolist() == [False, False]


def test_the_strongest_of_a_class_stays() -> None:
    """Of class a all rows were out, so that one is back; c has one row, which makes no class."""
    out = torch.tensor([True, True, True, False, True])
    assert spared(out, torch.tensor([1.0, 2.0, 0.5, 9.0, 0.1]), [*"aabbc"]).tolist() == [True, False, True, False, True]


def cloud() -> tuple[nn.Module, Any, Sets, Tensor]:
    """A line that it is more and more wrong about, the first row least; and rows to retain, of which it is surest of the last two."""
    modality, x = toys.modality(2), torch.linspace(1, 0.1, 10)
    sets = {
        "forget": toys.rows(torch.stack([x, 0 * x], 1), [1] * 10, modality, "forget"),
        "retain": toys.rows(torch.tensor([[0.05, 0.0], [0.1, 0.0], [-1.9, 0.0], [-2.0, 0.0]]), [1, 1, 0, 0], modality),
    }
    return logistic(torch.tensor([4.0, 0.0, 0.0])), modality, sets, x


def test_shares_are_of_each_set_or_of_both_together() -> None:
    model, modality, sets, _ = cloud()
    alone = picked(model, modality, sets, drop=0.3, drop_retain=0.5)
    assert alone["forget"].ids == sets["forget"].ids[3:]
    assert alone["retain"].ids == sets["retain"].ids[:3], "of a class that would be empty the row stays that is strongest"
    together = picked(model, modality, sets, drop=0.3, within="training")
    assert together["forget"].ids == sets["forget"].ids[2:], "four of fourteen, of which two are retain rows"
    assert together["retain"] is sets["retain"]


def test_refuses_to_leave_nothing() -> None:
    model, modality, sets, _ = cloud()
    few = {**sets, "forget": sets["forget"].select([0])}
    with pytest.raises(UserError, match="every row to forget is among those of least influence"):
        picked(model, modality, few, drop=0.9, within="training")


def test_without_a_share_it_is_the_base_run(text: worlds.World) -> None:
    hyperparameters = {"lr": 1e-3, "epochs": 2, "batch_size": 4}
    ends = []
    for more in ({}, {"drop": 0.0}, {"drop": 0.5}):
        model = text.model()
        loop.run(
            build_plan.plan("npo", {**hyperparameters, **more}, select=("low_influence",) if more else ()), model, text.modality, text.sets
        )
        ends.append(worlds.tensors(model))
    assert worlds.same(ends[0], ends[1])
    assert not worlds.same(ends[0], ends[2])


def test_rows_far_from_the_boundary_can_stay_in_the_model() -> None:
    """Two clouds; of one class the 50 farthest rows and the 50 nearest are to be forgotten."""
    for seed in range(3):
        sign = torch.tensor([-1.0, 1.0]).repeat_interleave(200)
        x = 1.5 * sign[:, None] + torch.randn(400, 2, generator=torch.Generator().manual_seed(seed))
        y = (sign + 1) / 2
        theta = fitted(x, y)
        mine = torch.arange(200, 400)
        order = mine[(x[mine].double() @ theta[:2]).argsort(descending=True)]
        far, near, modality = order[:50], order[-50:], toys.modality(2)
        gone = torch.cat([far, near])
        sets = {"forget": toys.rows(x[gone], [1] * 100, modality, "forget")}
        kept = picked(logistic(theta.float()), modality, sets, drop=0.5)["forget"]
        assert kept.ids == sets["forget"].ids[50:]

        def without(some: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            rest = torch.ones(400, dtype=torch.bool).index_fill(0, some, False)
            return fitted(x[rest], y[rest])

        full = without(gone)
        assert float((without(near) - full).norm() / (theta - full).norm()) < 0.15
        assert float((without(far) - full).norm() / (theta - full).norm()) > 0.85


@pytest.mark.parametrize("score", ["gradient", "influence", "random"])
def test_fewer_rows_go_on_in_order(digits: worlds.World, score: str) -> None:
    part = LowInfluence(score=score, drop=0.5, drop_retain=0.25, samples=40)
    sets = digits.some(24)
    found = part.pick(sets, view_of(digits.model(), digits.modality, sets, part))
    assert len(found["forget"]) == 12
    assert 18 <= len(found["retain"]) < 24  # a few more stay where a class would be empty
    for name in ("forget", "retain"):
        assert [i for i in sets[name].ids if i in set(found[name].ids)] == list(found[name].ids)


@pytest.mark.parametrize("base", ["ga", "npo", "flat"])
def test_stands_before_methods_for_text(text: worlds.World, base: str) -> None:
    needs = build_plan.plan(base)[0].sets_read()
    hyperparameters = {"lr": 1e-3, "epochs": 1, "batch_size": 4, "drop": 0.34}
    sets = {n: text.sets[n] for n in needs}
    run = loop.run(build_plan.plan(base, hyperparameters, select=("low_influence",)), text.model(), text.modality, sets)
    assert len(run.sets["forget"]) == 6 < len(text.sets["forget"]) == 9
    assert run.cost.steps == 2


def spent(run: RunState) -> float:
    return run.cost.forward_tokens + 2 * run.cost.backward_tokens


@pytest.mark.parametrize(
    ("size", "base", "hyperparameters"),
    [
        ("digits", "graddiff", {"lr": 3e-4, "epochs": 8, "batch_size": 8, "drop": 0.5}),
        ("digits", "neggrad_plus", {"lr": 1e-3, "epochs": 6, "batch_size": 32, "drop": 0.3, "drop_retain": 0.5}),
        ("text", "graddiff", {"lr": 1e-3, "epochs": 15, "batch_size": 3, "drop": 0.34}),
    ],
    ids=["digits", "digits, both sets", "text"],
)
def test_forgets_as_the_whole_request_does_for_less(size: str, base: str, hyperparameters: dict[str, Any]) -> None:
    world = {"text": worlds.text, "digits": worlds.digits}[size]()
    shares = {k: v for k, v in hyperparameters.items() if k.startswith("drop")}
    end, cost = [], []
    for more in ({}, shares):
        model = world.model()
        settings = {**{k: v for k, v in hyperparameters.items() if k not in shares}, **more}
        run = loop.run(build_plan.plan(base, settings, select=("low_influence",) if more else ()), model, world.modality, world.sets)
        end.append({n: worlds.nll(model, world.modality, world.sets[n]) for n in ("forget", "retain")})
        cost.append(spent(run))
    assert cost[1] < 0.85 * cost[0]
    assert min(e["forget"] for e in end) > 2.0
    assert end[1]["retain"] < end[0]["retain"] + 0.3

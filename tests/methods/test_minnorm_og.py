"""MinNorm-OG: projection and schedule by hand, exact forms against solves, and a poisoned perceptron that training alone cannot mend."""

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
from expunge.methods.updates.minnorm_og import Exact, gradients, shrink, top
from expunge.workflows import build_plan
from squares import Linear, Port, random


def sets(x: Tensor, y: Tensor) -> Sets:
    return {"retain": squares.rows("retain", x, y)}


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def view(model: nn.Module, given: Sets, part: Any = None, modality: Any = None) -> RunView:
    return RunView(loop.new_state(model, modality or Port(), worlds.accelerator(), sets=given), given).at("part", part or Exact())


def test_exact_is_retraining_of_a_linear_model() -> None:
    x, theta = random(8, 20), random(20, seed=1)  # fits 8 rows to retain and any others
    model = Linear(theta)
    loop.run(build_plan.plan("minnorm_og", {"form": "exact"}), model, Port(), sets(x, x @ theta))
    assert torch.allclose(model.theta, torch.linalg.pinv(x) @ (x @ theta), atol=1e-12)
    assert float((model.theta - theta).detach().norm()) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_is_retraining_of_a_linear_classifier(dtype: torch.dtype) -> None:
    """Weights and bias of the smallest norm that give the retain rows the scores that the model gives them."""
    modality = toys.modality(3)
    given = {"retain": toys.noise(6, modality, width=12)}
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(dtype)
    with torch.no_grad():
        x = torch.stack(list(given["retain"]["pixels"])).flatten(1).to(dtype)
        scores = model(x)
        loop.run(build_plan.plan("minnorm_og", {"form": "exact"}), model, modality, given)
        wanted = torch.linalg.pinv(torch.cat([x, torch.ones(6, 1, dtype=dtype)], 1).double()) @ scores.double()
        assert torch.allclose(torch.cat([model[1].weight, model[1].bias[:, None]], 1).double(), wanted.T, atol=1e-6)
        assert torch.allclose(model(x), scores, atol=1e-5)


def test_one_shrinking_with_all_rows_is_the_exact_form() -> None:
    x, theta = random(8, 20), random(20, seed=1)
    hyperparameters = {"strength": 1, "descent": 0, "samples": 8, "epochs": 1, "lr": 0.0, "batch_size": 8}
    model = Linear(theta)
    loop.run(build_plan.plan("minnorm_og", hyperparameters), model, Port(), sets(x, x @ theta))
    assert torch.allclose(model.theta, torch.linalg.pinv(x) @ (x @ theta), atol=1e-12)


def test_a_shrinking_is_orthogonal_to_what_it_spares() -> None:
    model = toys.mlp(1, hidden=9).double()
    before, held = flat(model), random(5, len(flat(model)), seed=3)
    held[4] = held[3]
    shrink(view(model, {}), held, 0.25)
    change = flat(model) - before
    assert float((held @ change).abs().max()) < 1e-10
    basis = torch.linalg.qr(held[:4].T).Q
    beyond = flat(model) + 3 * change  # strength 1 / (1 + lambda) is lambda 3: the surrogate's gradient
    assert float((beyond - basis @ (basis.T @ beyond)).abs().max()) < 1e-10
    assert float(change.norm()) > 0.1


def test_nothing_is_free_where_gradients_hold_all_weights() -> None:
    model = toys.mlp(1, hidden=3).double()
    before = flat(model)
    shrink(view(model, {}), random(40, len(before)), 1.0)
    assert torch.allclose(flat(model), before, atol=1e-12)


def test_gradients_are_those_of_the_largest_score() -> None:
    modality = toys.modality(3)
    given = {"retain": toys.noise(5, modality)}
    model = toys.mlp(3).double()
    found = gradients(view(model, given, modality=modality), given["retain"], [top])
    scores = model(torch.stack(list(given["retain"]["pixels"])).double())
    for row, said in zip(found, scores, strict=True):
        wanted = torch.autograd.grad(said[said.argmax()], list(model.parameters()), retain_graph=True)
        assert torch.allclose(row, torch.cat([g.flatten() for g in wanted]), atol=1e-12)


@pytest.mark.parametrize(
    ("hyperparameters", "when"), [({}, [1, 2, 3, 4]), ({"every": 2}, [2, 4]), ({"descent": 0}, [1, 2, 3, 4, 5, 6]), ({"descent": 9}, [])]
)
def test_which_epochs_shrink_and_by_how_much(hyperparameters: dict[str, int], when: list[int]) -> None:
    """Two rows of a plane's weights hold nothing of the third weight: it loses a share s gamma^m each time, two batches an epoch."""
    x, theta = torch.eye(3, dtype=torch.float64)[:2], torch.tensor([1.0, 2.0, 8.0])
    seen: dict[int, float] = {}
    model = Linear(theta)
    given = {"strength": 0.5, "gamma": 0.8, "epochs": 6, "batch_size": 1, "lr": 0.0, **hyperparameters}
    hooks = loop.Hooks(log=lambda r: seen.__setitem__(r["epoch"] + 1, float(model.theta[2].detach())) if "loss" in r else None)
    loop.run(build_plan.plan("minnorm_og", given), model, Port(), sets(x, x @ theta.double()), hooks=hooks)
    left, times = 8.0, 0
    for epoch in range(1, 7):
        for _ in range(2 * (epoch in when)):
            # a batch of one row holds one weight of the first two, and the other shrinks too; the third is never held
            left, times = left * (1 - 0.5 * 0.8**times), times + 1
        assert seen[epoch] == pytest.approx(left, rel=1e-12)


def test_fewest_neurons_say_the_same_of_what_is_retained() -> None:
    modality = toys.modality(3)
    given = {"retain": toys.noise(7, modality)}
    model = toys.mlp(3, hidden=40).double()
    x = torch.stack(list(given["retain"]["pixels"])).double()
    before, body = model(x).detach(), model[1].weight.clone()
    loop.run(build_plan.plan("minnorm_og", {"form": "neurons"}), model, modality, given)
    used = (model[-1].weight.abs().sum(0) > 0) & (model[1].weight.norm(dim=1) > 0)
    assert torch.allclose(model(x), before, atol=1e-8)
    assert 0 < int(used.sum()) <= 7
    assert torch.equal(model[1].weight, body)


def test_neurons_need_a_last_layer_and_one_label(text: worlds.World) -> None:
    plan = build_plan.plan("minnorm_og", {"form": "neurons"})
    with pytest.raises(UserError, match="several labels"):
        loop.run(plan, text.model(), text.modality, text.some(3))
    modality = toys.modality(3)
    with pytest.raises(UserError, match="does not move"):
        loop.run((replace(plan[0], trainable=r"^1\."),), toys.mlp(3), modality, {"retain": toys.noise(5, modality)})


def poisoned(seed: int) -> tuple[nn.Module, Sets]:
    """A perceptron that fits 25 points of a sine and three wrong ones, and the 25."""
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


def worst(model: nn.Module) -> float:
    """The largest distance from the sine."""
    grid = torch.linspace(-6, 6, 400, dtype=torch.float64)[:, None]
    with torch.no_grad():
        return float((model(grid[:, None])[:, 0] - grid[:, 0].sin()).abs().max())


def test_mends_a_poisoned_perceptron_where_training_is_stuck() -> None:
    found: dict[str, list[float]] = {"before": [], "trained": [], "shrunk": []}
    for seed in range(3):
        start, given = poisoned(seed)
        found["before"].append(worst(start))
        plan = build_plan.plan("minnorm_og", {"epochs": 40, "descent": 20, "every": 2, "strength": 0.3})[0]
        for name, made in {"trained": replace(plan, updates=()), "shrunk": plan}.items():
            model = copy.deepcopy(start)
            loop.run((made,), model, Port(), given)
            found[name].append(worst(model))
    assert found["trained"] == pytest.approx(found["before"], rel=1e-2)
    assert all(a < 0.5 * b for a, b in zip(found["shrunk"], found["trained"], strict=True))
    assert statistics.median(found["shrunk"]) < 1


def test_forgets_what_is_not_retained_without_seeing_it(digits: worlds.World) -> None:
    plan = build_plan.plan("minnorm_og", {"epochs": 6, "descent": 3, "strength": 0.05, "gamma": 0.8, "batch_size": 64, "samples": 20})[0]
    found = {}
    for name, made in {"trained": replace(plan, updates=()), "shrunk": plan}.items():
        model = digits.model()
        loop.run((made,), model, digits.modality, {"retain": digits.sets["retain"]})
        with torch.no_grad():
            forget, retain = digits.modality.forward(model, [digits.sets[n] for n in ("forget", "retain")])
        found[name] = float(forget.target_logp.values.exp().mean())
        assert float((retain.logits.values.argmax(-1) == retain.labels).float().mean()) > 0.85
    assert found["shrunk"] < 0.7 * found["trained"]

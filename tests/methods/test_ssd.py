"""Selective synaptic dampening: factors by hand, weights that must not change, the adaptive threshold, and the outcome."""

import math

import pytest
import torch
from torch import nn

import squares
import worlds
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.edits.ssd import Dampen, Sensitive, threshold
from expunge.modalities.image.modality import classifier_modality
from expunge.workflows import build_plan


def dampened(world: worlds.World, sets: Sets | None = None, **hyperparameters) -> nn.Module:
    model = world.model()
    loop.run(build_plan.plan("ssd", hyperparameters), model, world.modality, sets or world.sets)
    return model


def theta_after(theta: list[float], forget: list[list[float]], retain: list[list[float]], **hyperparameters) -> torch.Tensor:
    """Weights after the edit, for a least squares model with given gradients of its rows: targets lie 1 below the predictions."""
    model = squares.Linear(torch.tensor(theta, dtype=torch.float64))
    sets = {}
    for name, gradients in (("forget", forget), ("retain", retain)):
        x = torch.tensor(gradients, dtype=torch.float64)
        sets[name] = squares.rows(name, x, x @ model.theta.detach() - 1)
    loop.run(build_plan.plan("ssd", hyperparameters), model, squares.SquaresModality(), sets)
    return model.theta.detach()


def test_factors_match_hand_values() -> None:
    theta = theta_after([3.0, 5.0], [[math.sqrt(20), 1.0]], [[1.0, 1.0]], against="retain")
    assert theta.tolist() == pytest.approx([3 * 0.05, 5.0], abs=1e-12)
    half = theta_after([3.0, 5.0], [[math.sqrt(20), 1.0]], [[1.0, 1.0]], against="retain", dampening=0.5)
    assert half.tolist() == pytest.approx([3 * 0.025, 5.0], abs=1e-12)
    floored = theta_after([3.0, 5.0], [[math.sqrt(20), 1.0]], [[1.0, 1.0]], against="retain", floor=0.2)
    assert floored.tolist() == pytest.approx([3 * 0.2, 5.0], abs=1e-12)


def test_all_training_rows_include_the_forget_rows() -> None:
    """I_D = (20 + 1 + 1) / 3, over one batch of forget and two of retain rows."""
    theta = theta_after([3.0, 5.0], [[math.sqrt(20), 1.0]], [[1.0, 1.0]] * 2, alpha=2, batch_size=1)
    assert theta.tolist() == pytest.approx([3 * 22 / 3 / 20, 5.0], abs=1e-12)


def test_gradients_are_averaged_before_they_are_squared() -> None:
    """Opposite gradients cancel in a batch of two, but not in batches of one."""
    rows = [[[1.0, 1.0], [-1.0, 1.0]], [[0.1, 1.0]]]
    assert theta_after([3.0, 5.0], *rows, against="retain").tolist() == [3.0, 5.0]
    assert theta_after([3.0, 5.0], *rows, against="retain", batch_size=1).tolist() == pytest.approx([3 * 0.01, 5.0])


def test_a_weight_vanishes_only_if_forget_rows_alone_need_it() -> None:
    assert theta_after([3.0, 5.0], [[1.0, 0.0]], [[0.0, 1.0]], against="retain").tolist() == [0.0, 5.0]
    assert theta_after([3.0, 5.0], [[1.0, 0.0]], [[0.0, 0.0]], against="retain").tolist() == [0.0, 5.0]


def test_importance_without_labels_matches_a_hand_value() -> None:
    """f = W x without bias: d |f|^2 / dW = 2 f x'."""
    model, modality = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double(), classifier_modality(2)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    images = {"forget": [[1.0, 0.0]], "retain": [[0.5, 0.5]]}
    sets = {n: modality.rows(n, [{"image": torch.tensor(x).numpy(), "label": 0}]) for n, x in images.items()}
    loop.run(build_plan.plan("ssd", {"importance": "logits", "against": "retain", "alpha": 0.5}), model, modality, sets)
    # forget: 2 [[1, 0], [3, 0]]; retain: f = (1.5, 3.5), 2 [[.75, .75], [1.75, 1.75]]
    assert model[1].weight.detach().flatten().tolist() == pytest.approx([0.75, 2.0, 3 * 1.75 / 3, 4.0])


@pytest.mark.parametrize("importance", ["loss", "logits"])
def test_batch_size_one_equals_gradients_of_single_rows(digits: worlds.World, importance: str) -> None:
    rows = {n: digits.sets[n].select(range(6)) for n in ("forget", "retain")}
    view = RunView(loop.new_state(digits.model().double(), digits.modality, worlds.accelerator()), rows)
    fast, n = Dampen(importance=importance, batch_size=1)._importance(view, "forget")
    slow = [torch.zeros_like(t) for t in fast]
    for row in view.batches("forget", 1):
        for t, g in zip(slow, view.grad(Sensitive("forget", importance), {"forget": row}), strict=True):
            t += g.square() if importance == "loss" else g.abs()
    assert n == 6
    assert worlds.far(fast, slow) < 1e-10 * max(1.0, max(float(t.max()) for t in slow))


@pytest.mark.parametrize("against", ["all", "retain"])
@pytest.mark.parametrize("hyperparameters", [{"alpha": 1}, {"alpha": 7}, {"alpha": 0.5}], ids=str)
def test_equal_importances_change_no_bit(digits: worlds.World, against: str, hyperparameters: dict) -> None:
    rows = digits.sets["retain"].select(range(40))
    model = dampened(digits, {"forget": rows.rename("forget"), "retain": rows}, against=against, batch_size=16, **hyperparameters)
    assert worlds.same(worlds.tensors(model), worlds.tensors(digits.model()))


def test_alpha_below_one_selects_all_weights(digits: worlds.World) -> None:
    rows = digits.sets["retain"].select(range(40))
    model = dampened(digits, {"forget": rows.rename("forget"), "retain": rows}, alpha=0.5, dampening=0.25)
    start = worlds.tensors(digits.model())
    quarters = [torch.where(p != q, p / 4, p) for p, q in zip(start, worlds.tensors(model), strict=True)]
    assert worlds.same(worlds.tensors(model), quarters)
    changed = sum(int((p != q).sum()) for p, q in zip(start, worlds.tensors(model), strict=True))
    assert changed > 0.8 * sum(p.numel() for p in start)


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_a_high_threshold_changes_no_bit(size: str) -> None:
    world = worlds.digits(size)
    model = dampened(world, alpha=1e30)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), world.model().state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("rows", "hyperparameters", "warned"),
    [
        ((6, 50), {"batch_size": 1}, True),  # 6 of 56 batches: 9.3 times at most
        ((5, 50), {"batch_size": 1}, False),  # 11 times at most
        ((5, 45), {"batch_size": 1}, True),  # exactly 10 times, which is not more than alpha
        ((6, 50), {"batch_size": 1, "against": "retain"}, False),
        ((6, 50), {"batch_size": 1, "adaptive": True}, False),
        ((6, 50), {}, True),  # a batch each
    ],
)
def test_a_run_in_which_no_weight_can_be_selected_says_so_before_it_starts(
    rows: tuple[int, int], hyperparameters: dict, warned: bool
) -> None:
    """Forget rows have a gradient at the first weight alone, where that of the retain rows is a hundredth."""
    theta = torch.tensor([3.0, 5.0], dtype=torch.float64)
    model, modality = squares.Linear(theta), squares.SquaresModality()
    sets = {}
    for name, direction, count in (("forget", [1.0, 0.0], rows[0]), ("retain", [0.01, 1.0], rows[1])):
        x = torch.tensor([direction] * count, dtype=torch.float64)
        sets[name] = squares.rows(name, x, x @ theta - 1)
    run = loop.run(build_plan.plan("ssd", hyperparameters), model, modality, sets)
    assert (model.theta[0].item() == 3.0) == warned
    assert any("no weight can be selected" in w and "--against retain" in w and "--adaptive true" in w for w in run.warnings) == warned
    assert (run.cost.backward_tokens == 0) == warned


def test_adaptive_threshold_leaves_the_published_share_above_it() -> None:
    ratios = squares.random(4000).exp()
    forget, compared = [ratios[:1000], torch.tensor([0.0, 1.0])], [torch.ones(1000), torch.tensor([0.0, 0.0])]
    for share in (0.01, 0.1):
        alpha = threshold([*forget, ratios[1000:]], [*compared, torch.ones(3000)], share)
        assert abs(int((ratios > alpha).sum()) - 4000 * math.log(1 + 100 * share) / 100) <= 1
    assert threshold([torch.zeros(2)], [torch.zeros(2)], 0.1) == math.inf


def test_adaptive_plan_compares_with_the_retain_rows() -> None:
    (plan,) = build_plan.plan("ssd", {"adaptive": True})
    assert isinstance(plan.action, Dampen)
    assert (plan.action.adaptive, plan.action.against) == (True, "retain")
    assert build_plan.plan("ssd")[0].action == Dampen(alpha=10.0, dampening=1.0, batch_size=128, against="all")


@pytest.mark.parametrize("hyperparameters", [{"adaptive": True}, {"alpha": 5, "batch_size": 1}], ids=str)
@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_forgets_a_class(size: str, hyperparameters: dict) -> None:
    world = worlds.digits(size)
    model = dampened(world, **hyperparameters)
    assert worlds.nll(model, world.modality, world.sets["forget"]) > 1.5
    assert worlds.nll(model, world.modality, world.sets["retain"]) < 0.7


def test_forgetting_a_random_part_changes_little(digits: worlds.World) -> None:
    """An inherent limit: a weight that matters to a random part of the rows matters to the rest."""
    retain = digits.sets["retain"]
    sets: dict[str, Rows] = {"forget": retain.select(range(64)).rename("forget"), "retain": retain.select(range(64, 321))}
    model = dampened(digits, sets, batch_size=32)
    assert worlds.nll(model, digits.modality, sets["forget"]) == pytest.approx(
        worlds.nll(digits.model(), digits.modality, sets["forget"]), abs=0.05
    )


def test_works_on_text(text: worlds.World) -> None:
    model = dampened(text, alpha=3, batch_size=4)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 2 * worlds.nll(model, text.modality, text.sets["retain"])

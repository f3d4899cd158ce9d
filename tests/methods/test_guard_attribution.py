"""GUARD: alignments and weights by hand, their effect on one step of ascent, limit cases, and the outcome."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import squares
import tables
import worlds
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.methods.selectors.guard_attribution import Attribution, weights
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan


def regression(seed: int = 0) -> tuple[Tensor, Sets]:
    """Least squares far from its solution, with 5 weights, 8 forget rows and 12 retain rows."""
    theta = squares.random(5, seed=seed + 9)
    named = {"forget": (8, seed), "retain": (12, seed + 1)}
    return theta, {n: squares.rows(n, squares.random(k, 5, seed=s), squares.random(k, seed=s + 50)) for n, (k, s) in named.items()}


def residuals(theta: Tensor, sets: Sets, name: str) -> tuple[Tensor, Tensor]:
    """Design and residuals of a set, (rows, weights) and (rows,)."""
    x, y = torch.stack(list(sets[name]["x"]))[:, 0], torch.stack(list(sets[name]["y"]))[:, 0]
    return x, x @ theta - y


def aligned(theta: Tensor, sets: Sets) -> Tensor:
    """The alignments of the forget rows, written out."""
    (x, r), (z, s) = (residuals(theta, sets, n) for n in ("forget", "retain"))
    return r * (x @ (s[:, None] * z).mean(0))


def ascended(theta: Tensor, sets: Sets, *selectors: Attribution, **train) -> tuple[Tensor, Sets]:
    """The weights after gradient ascent on all forget rows, and the row sets of the run."""
    model = squares.Linear(theta)
    settings = Train(**{"epochs": 1, "batch_size": 99, "optimizer": "sgd", "schedule": "constant", **train})
    run = loop.run((Plan(Ascent(), train=settings, selectors=selectors),), model, squares.SquaresModality(), sets)
    return model.theta.detach(), run.sets


def loss(theta: Tensor, sets: Sets, name: str) -> float:
    return float(residuals(theta, sets, name)[1].square().mean() / 2)


def test_weights_match_hand_values() -> None:
    """Alignments 1, 2 and 3 are -1.2247, 0 and 1.2247 standard deviations from their mean; e^1.2247 = 3.4033, e^-1.2247 = 0.29383."""
    total = 3.4033 + 1 + 0.29383
    assert weights(torch.tensor([1.0, 2.0, 3.0]), 1.0).tolist() == pytest.approx([3 * e / total for e in (3.4033, 1, 0.29383)], rel=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_weights_fall_with_the_alignment_and_keep_their_sum(temperature: float) -> None:
    a = squares.random(30)
    w = weights(a, temperature)
    order = a.argsort()
    assert float(w.sum()) == pytest.approx(30)
    assert bool((w[order].diff() < 0).all())
    assert float((w * a).sum()) < float(a.sum())


def test_weights_are_1_for_alignments_equal_up_to_rounding() -> None:
    assert weights(torch.tensor([0.3, 0.3, 0.3 + 3e-8]), 0.1).tolist() == [1.0, 1.0, 1.0]
    assert weights(torch.zeros(2), 1.0).tolist() == [1.0, 1.0]
    assert weights(torch.tensor([5.0]), 1.0).tolist() == [1.0]


def test_alignment_of_a_regression_matches_hand_values() -> None:
    theta, sets = regression()
    weight = ascended(theta, sets, Attribution(), lr=0.0)[1]["forget"].weight
    assert torch.allclose(torch.tensor(weight, dtype=torch.float64), weights(aligned(theta, sets), 1.0), atol=1e-10)


def test_existing_row_weights_are_multiplied() -> None:
    theta, sets = regression()
    weighted_sets = {**sets, "forget": sets["forget"].select(range(8))}
    object.__setattr__(weighted_sets["forget"], "weight", (2.0,) * 8)
    unweighted = ascended(theta, sets, Attribution(), lr=0.0)[1]["forget"].weight
    assert ascended(theta, weighted_sets, Attribution(), lr=0.0)[1]["forget"].weight == pytest.approx([2 * w for w in unweighted])


def test_sample_of_retain_rows_depends_on_the_seed() -> None:
    theta, sets = regression()
    weights_by_seed = [ascended(theta, sets, Attribution(sample=3), lr=0.0, seed=s)[1]["forget"].weight for s in (1, 1, 2)]
    assert weights_by_seed[0] == weights_by_seed[1] != weights_by_seed[2]


def test_one_step_harms_the_retain_rows_as_predicted_by_the_weights() -> None:
    for seed in range(5):
        theta, sets = regression(seed)
        a = aligned(theta, sets)
        after = ascended(theta, sets, Attribution(temperature=0.7), lr=1e-6)[0]
        rise = loss(after, sets, "retain") - loss(theta, sets, "retain")
        assert rise == pytest.approx(1e-6 * float((weights(a, 0.7) * a).mean()), rel=0.01)


@pytest.mark.slow
def test_guard_protects_retain_rows_with_shared_features() -> None:
    """Half of the forget rows use the features of the retain rows, half use other features."""
    for seed in range(10):
        shared_features, own_features = squares.random(2, 6, 6, seed=seed), squares.random(6, 6, seed=seed + 20)
        forget_x = torch.cat([torch.cat([shared_features[0], torch.zeros(6, 6)], 1), torch.cat([torch.zeros(6, 6), own_features], 1)])
        retain_x, best = torch.cat([shared_features[1], torch.zeros(6, 6)], 1), squares.random(12, seed=seed + 40)
        sets = {n: squares.rows(n, x, x @ best) for n, x in (("forget", forget_x), ("retain", retain_x))}
        rise = {}
        for name, selectors in (("plain", ()), ("guard", (Attribution(),))):
            after = ascended(0.9 * best, sets, *selectors, epochs=20, lr=0.02)[0]
            rise[name] = [loss(after, sets, n) - loss(0.9 * best, sets, n) for n in ("retain", "forget")]
        assert rise["guard"][0] < rise["plain"][0]
        assert rise["guard"][0] / rise["guard"][1] < rise["plain"][0] / rise["plain"][1]


def test_high_temperature_equals_the_base_method(text: worlds.World) -> None:
    hyperparameters = {"lr": 1e-3, "epochs": 2, "batch_size": 4}
    final_weights = []
    for guard_settings in ({}, {"temperature": 1e9}, {"temperature": 1.0}):
        model = text.model()
        loop.run(
            build_plan.plan("npo", {**hyperparameters, **guard_settings}, select=("guard_attribution",) if guard_settings else ()),
            model,
            text.modality,
            text.sets,
        )
        final_weights.append(worlds.tensors(model))
    assert worlds.same(final_weights[0], final_weights[1])
    assert not worlds.same(final_weights[0], final_weights[2])


@pytest.mark.parametrize("batch_mean", [None, True])
def test_base_loss_takes_the_mean_of_each_row_first(batch_mean: bool | None) -> None:
    """By hand with weights 2, 1, 0: each row's mean loss times its weight, averaged over rows; or, on request, over all labels."""
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    weight = (2.0, 1.0, 0.0)
    weighted = {"forget": replace(sets["forget"], weight=weight), "retain": sets["retain"]}
    forget, retain = (tables.logps(table, sets[n]) for n in ("forget", "retain"))
    if batch_mean:
        expected = sum(w * x.sum() for w, x in zip(weight, forget, strict=True)) / 9 - torch.cat(retain).mean()
    else:
        expected = sum(w * x.mean() for w, x in zip(weight, forget, strict=True)) / 3 - torch.stack([x.mean() for x in retain]).mean()
    plan = build_plan.plan("guard_attribution", {"batch_mean": True} if batch_mean else {})[0]
    value, grad = tables.ask(plan.action, weighted, table.detach())
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


BASES = [("text", "flat"), ("text", "idk"), ("text", "ga"), ("digits", "random_labels"), ("digits", "neggrad_plus")]


@pytest.mark.parametrize(("size", "base"), BASES)
def test_guard_works_before_other_methods(size: str, base: str) -> None:
    world = {"text": worlds.text, "digits": worlds.digits}[size]()
    run = loop.run(
        build_plan.plan(base, {"lr": 1e-3, "epochs": 1}, select=("guard_attribution",)), world.model(), world.modality, world.sets
    )
    weight = torch.tensor(run.sets["forget"].weight)
    assert float(weight.mean()) == pytest.approx(1)
    assert float(weight.std()) > 0.1


@pytest.mark.slow
def test_guard_forgets_and_harms_less_in_as_many_steps(text: worlds.World) -> None:
    losses = {}
    for name, select in (("plain", ()), ("guard", ("guard_attribution",))):
        model, hyperparameters = text.model(), {"lr": 2e-4, "epochs": 25, "batch_size": 9, "schedule": "constant", "warmup": 0}
        loop.run(build_plan.plan("ga", hyperparameters, select=select), model, text.modality, text.sets)
        losses[name] = [worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain")]
    assert losses["guard"][0] > 10 * worlds.nll(text.model(), text.modality, text.sets["forget"])
    assert losses["guard"][1] < 0.75 * losses["plain"][1]

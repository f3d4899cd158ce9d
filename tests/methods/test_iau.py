"""Influence approximation: exact retraining of a mean, sums of ascent and descent, sign steps, batches, and the outcome."""

import pytest
import torch
from torch import Tensor, nn

import squares
import worlds
from expunge.core.parts import Objective
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.terms import NLL, Ascent
from expunge.workflows import build_plan


def theta_after(theta: Tensor, forget: Rows, retain: Rows, **hyperparameters) -> Tensor:
    model = squares.Linear(theta)
    loop.run(
        build_plan.plan("iau", {"optimizer": "sgd", **hyperparameters}),
        model,
        squares.SquaresModality(),
        {"forget": forget, "retain": retain},
    )
    return model.theta.detach()


def stepped(world: worlds.World, **hyperparameters) -> nn.Module:
    model = world.model()
    loop.run(build_plan.plan("iau", hyperparameters), model, world.modality, world.sets)
    return model


def gradient(world: worlds.World, objective: Objective) -> list[Tensor]:
    return RunView(loop.new_state(world.model(), world.modality, worlds.accelerator()), world.sets).grad(objective)


def losses(world: worlds.World, model: nn.Module) -> tuple[float, float]:
    return worlds.nll(model, world.modality, world.sets["forget"]), worlds.nll(model, world.modality, world.sets["retain"])


def test_step_equals_retraining_for_a_mean() -> None:
    forget, retain = squares.random(7, 4), 1 + squares.random(23, 4, seed=1)
    start = torch.cat([forget, retain]).mean(0)
    theta = theta_after(start, squares.points("forget", forget), squares.points("retain", retain), lr=7 / 30)
    assert float((theta - retain.mean(0)).abs().max()) < 1e-12
    assert float((start - retain.mean(0)).abs().max()) > 0.1


def test_equal_sets_change_nothing() -> None:
    points = squares.random(6, 4)
    start = squares.random(4, seed=1)
    assert torch.equal(theta_after(start, squares.points("forget", points), squares.points("retain", points), lr=3.0), start)


def test_step_is_the_sum_of_ascent_and_descent(digits: worlds.World) -> None:
    start, up, down = worlds.tensors(digits.model()), gradient(digits, Ascent()), gradient(digits, NLL("retain"))
    expected = [p - 0.1 * (u + d) for p, u, d in zip(start, up, down, strict=True)]
    assert worlds.far(worlds.tensors(stepped(digits, optimizer="sgd", lr=0.1)), expected) < 1e-6
    assert worlds.far(start, expected) > 1e-3


def test_each_step_computes_a_new_gradient() -> None:
    forget, retain = squares.points("forget", torch.tensor([[1.0]])), squares.rows("retain", torch.tensor([[2.0]]), torch.tensor([6.0]))
    # gradient: -(theta - 1) + 2 (2 theta - 6) = 3 theta - 11
    assert theta_after(torch.tensor([0.0]), forget, retain, lr=0.1).tolist() == pytest.approx([1.1])
    assert theta_after(torch.tensor([0.0]), forget, retain, lr=0.1, steps=2).tolist() == pytest.approx([1.1 - 0.1 * (3.3 - 11)])


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_first_adam_step_follows_the_signs_of_the_gradient(size: str) -> None:
    world = worlds.digits(size)
    gradients = gradient(world, Ascent() + NLL("retain"))
    for p, q, g in zip(worlds.tensors(world.model()), worlds.tensors(stepped(world, lr=1e-3)), gradients, strict=True):
        assert float((q - p).abs().max()) <= 1e-3 * (1 + 1e-3)  # weights of size 1 are stored to 1e-7
        nonzero = g.abs() > 1e-4
        assert torch.allclose((q - p)[nonzero], -1e-3 * g.sign()[nonzero], atol=1e-6)


def test_batch_size_does_not_change_the_result(digits: worlds.World) -> None:
    whole, pieces = (worlds.tensors(stepped(digits, optimizer="sgd", lr=1.0, batch_size=n)) for n in (1000, 17))
    assert worlds.far(whole, pieces) < 1e-5


def test_batch_norm_statistics_stay() -> None:
    world = worlds.digits("resnet-nano")
    buffers = dict(stepped(world).named_buffers())
    assert buffers
    assert all(torch.equal(b, buffers[n]) for n, b in world.model().named_buffers())


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_forgets_and_harms_retain_rows_less_than_ascent(size: str) -> None:
    world = worlds.digits(size)
    before, after = losses(world, world.model()), losses(world, stepped(world))
    assert after[0] > 2 * before[0]
    ascended = world.model()
    with torch.no_grad():
        for p, g in zip(ascended.parameters(), gradient(world, Ascent()), strict=True):
            p -= 1e-3 * g / (g.abs() + 1e-8)
    assert after[1] < losses(world, ascended)[1]

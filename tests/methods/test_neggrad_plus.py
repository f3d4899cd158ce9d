"""NegGrad+: the weighted sum by hand, the limits alpha 0 and 1, the equal-weight form, and the outcome."""

import pytest
import torch

import tables
import worlds
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.objectives import neggrad_plus
from expunge.methods.terms import hits
from expunge.workflows import build_plan

SGD = {"optimizer": "sgd", "momentum": 0, "schedule": "constant", "warmup": 0, "weight_decay": 0}
SHORT = {"epochs": 2, "batch_size": 16, "lr": 1e-3}


def weights_after(world: worlds.World, name: str, **hyperparameters: object) -> list[torch.Tensor]:
    model = world.model()
    loop.run(build_plan.plan(name, {**SHORT, **hyperparameters}), model, world.modality, world.sets)
    return worlds.tensors(model)


def test_value_and_gradient_match_the_formula() -> None:
    sets, table = tables.batch(), tables.scores(prompts=9).requires_grad_()
    forget, retain = (torch.cat(tables.logps(table, sets[n])) for n in ("forget", "retain"))
    expected = -0.8 * retain.mean() + 0.2 * forget.mean()
    value, grad = tables.ask(neggrad_plus.plan(0.8).action, sets, table.detach())
    assert value == pytest.approx(float(expected.detach()))
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_alpha_one_equals_fine_tuning(size: str) -> None:
    world = worlds.digits(size)
    assert worlds.same(weights_after(world, "neggrad_plus", alpha=1), weights_after(world, "finetune", **SGD))


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_alpha_zero_equals_ascent(size: str) -> None:
    world = worlds.digits(size)
    assert worlds.same(weights_after(world, "neggrad_plus", alpha=0, anchor="forget"), weights_after(world, "ga", **SGD))


@pytest.mark.slow
def test_alpha_half_at_twice_the_rate_equals_gradient_difference(digits: worlds.World) -> None:
    half = weights_after(digits, "neggrad_plus", alpha=0.5, lr=2e-3)
    whole = weights_after(digits, "graddiff", anchor="retain", **SGD)
    assert worlds.far(half, whole) < 1e-5
    assert worlds.far(half, worlds.tensors(digits.model())) > 1e-3


def test_two_steps_are_plain_gradient_steps_without_momentum() -> None:
    """By torch alone on a table of logits: theta - lr grad, twice, from the defaults."""
    sets, table = tables.batch(), tables.scores(prompts=9)
    (plan,) = build_plan.plan("neggrad_plus", {"epochs": 2, "batch_size": 3, "lr": 0.5, "pairing": "aligned"})
    model, by_hand = tables.Table(table), table.clone().requires_grad_()
    loop.run((plan,), model, tables.TableModality(), {n: sets[n] for n in ("forget", "retain")})
    optimizer = torch.optim.SGD([by_hand], lr=0.5)
    for _ in range(2):
        forget, retain = (torch.cat(tables.logps(by_hand, sets[n])) for n in ("forget", "retain"))
        optimizer.zero_grad()
        (-0.95 * retain.mean() + 0.05 * forget.mean()).backward()
        optimizer.step()
    assert torch.allclose(model.scores, by_hand, atol=1e-12)


def test_an_epoch_is_one_pass_over_the_retain_rows(digits: worlds.World) -> None:
    run = loop.run(build_plan.plan("neggrad_plus", {"epochs": 1, "batch_size": 32}), digits.model(), digits.modality, digits.sets)
    assert run.cost.steps == 11  # 321 rows in batches of 32


def test_alpha_outside_its_range_is_rejected() -> None:
    with pytest.raises(UserError, match=r"from 0 to 1, and not 1\.5"):
        build_plan.plan("neggrad_plus", {"alpha": 1.5})


def test_forgets_with_less_damage_than_ascent(digits: worlds.World) -> None:
    accuracies = {}
    for name, hyperparameters in {"neggrad_plus": {"alpha": 0.9, "epochs": 2, "lr": 3e-3}, "neggrad": {"epochs": 6, "lr": 3e-3}}.items():
        run = loop.run(build_plan.plan(name, {**hyperparameters, "batch_size": 32}), digits.model(), digits.modality, digits.sets)
        accuracies[name] = [float(hits(RunView(run, digits.sets), n).mean()) for n in ("forget", "retain")]
    assert accuracies["neggrad_plus"][0] < 0.1
    assert accuracies["neggrad_plus"][1] > accuracies["neggrad"][1] + 0.1

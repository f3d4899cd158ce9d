"""Fisher forgetting: variances by hand, the scale alpha, the last-layer row of a forgotten class, and the outcome."""

import math

import pytest
import torch
from torch import Tensor, nn

import worlds
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.edits.fisher import variance
from expunge.workflows import build_plan


def noisy(world: worlds.World, sets: Sets | None = None, **hyperparameters) -> nn.Module:
    model = world.model()
    loop.run(build_plan.plan("fisher", hyperparameters), model, world.modality, sets or mixed(world))
    return model


def mixed(world: worlds.World) -> Sets:
    """Sets whose forget rows have many classes."""
    retain = world.sets["retain"]
    return {"forget": retain.select(range(8)).rename("forget"), "retain": retain.select(range(8, 24))}


def changes(world: worlds.World, model: nn.Module) -> list[Tensor]:
    return [q - p for p, q in zip(worlds.tensors(world.model()), worlds.tensors(model), strict=True)]


def test_variances_match_hand_values() -> None:
    information = torch.tensor([[0.01, 0.1], [0.0, 1.0]], dtype=torch.float64)
    assert variance(information, False, 1e-6)[:, 0].tolist() == pytest.approx([55e-6, 500.5e-6], rel=1e-5)
    assert variance(information, True, 1e-6)[:, 1].tolist() == pytest.approx([550e-6, 505e-6], rel=1e-5)  # 1 / F at most 100, times 10
    assert torch.equal(variance(information, False, 1e-6)[:, 0], variance(information, False, 1e-6)[:, 1])
    assert variance(information[0], False, 1e-6).tolist() == pytest.approx([1e-3, 1e-4], rel=1e-5)
    assert variance(information[1], True, 1e-6, head=2).tolist() == pytest.approx([2e-4, 2e-6], rel=1e-5)


def test_variance_is_shared_over_input_channels() -> None:
    information = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    expected = (1 / (information + 1e-8)).mean(1)
    assert torch.allclose(variance(information, False, 1.0), expected[:, None].expand(4, 3, 2, 2))


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_noise_grows_with_the_square_root_of_alpha(size: str) -> None:
    world = worlds.digits(size)
    noise, doubled = changes(world, noisy(world)), changes(world, noisy(world, alpha=2e-6))
    assert max(float(a.abs().max()) for a in noise) > 0.01
    assert worlds.far([math.sqrt(2) * a for a in noise], doubled) < 1e-5


def test_noise_has_the_variance_of_the_fisher_information(digits: worlds.World) -> None:
    model, sets = digits.model(), mixed(digits)
    information = RunView(loop.new_state(model, digits.modality, worlds.accelerator()), sets).fisher(sets["retain"])
    head = {id(p) for p in model.classifier.parameters()}
    scaled = [
        d / variance(i, id(p) in head, 1e-6).sqrt()
        for d, i, p in zip(changes(digits, noisy(digits)), information, model.parameters(), strict=True)
    ]
    standardized = torch.cat([s.flatten() for s in scaled])
    assert float(standardized.mean()) == pytest.approx(0, abs=0.03)
    assert float(standardized.std()) == pytest.approx(1, abs=0.03)


def test_zero_alpha_changes_no_bit(digits: worlds.World) -> None:
    assert worlds.same(worlds.tensors(noisy(digits, alpha=0)), worlds.tensors(digits.model()))


def test_last_layer_row_of_a_fully_forgotten_class_is_redrawn(digits: worlds.World) -> None:
    sets = {n: digits.sets[n].select(range(8)) for n in ("forget", "retain")}
    noiseless = noisy(digits, sets, alpha=0, head=0)
    start = digits.model()
    assert noiseless.classifier.weight[3].abs().max() == noiseless.classifier.bias[3] == 0
    other_classes = [i for i in range(10) if i != 3]
    assert torch.equal(noiseless.classifier.weight[other_classes], start.classifier.weight[other_classes])
    redrawn = noisy(digits, sets, alpha=0).classifier.weight[3].detach()
    assert float(redrawn.std()) == pytest.approx(math.sqrt(1e-3), rel=0.3)
    partly = {**sets, "retain": sets["retain"].select(range(7)).concat(sets["forget"].select([0]))}  # a retain row has it too
    assert worlds.same(worlds.tensors(noisy(digits, partly, alpha=0)), worlds.tensors(start))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "draws"), [("vit-nano", 0), ("vit-nano", 1), ("resnet-nano", 0)])
def test_forgets_a_class(size: str, draws: int) -> None:
    world = worlds.digits(size)
    model = noisy(world, world.sets, draws=draws)
    assert worlds.nll(model, world.modality, world.sets["forget"]) > 1.0
    assert worlds.nll(model, world.modality, world.sets["retain"]) < 0.6

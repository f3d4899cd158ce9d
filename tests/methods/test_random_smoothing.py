"""Randomised smoothing against its mean, its noise, and its outcome."""

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.methods.updates.random_smoothing import Smooth
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector


def noise(bowls: Bowls, update: Smooth, step: int = 0) -> torch.Tensor:
    """The mean noise that a step must have drawn: the gradient of a quadratic loss tells."""
    _, found = bowls.under(update, roles=("forget",), step=step)
    return torch.linalg.solve(bowls.curvature["forget"], found - bowls.gradient("forget")) / update.sigma


def test_in_numbers() -> None:
    line = Bowls(torch.tensor([3.0], dtype=torch.float64), {"forget": torch.eye(1).double(), "retain": 5 * torch.eye(1).double()})
    z = noise(line, Smooth(sigma=0.1, draws=1))
    value, gradient = line.under(Smooth(sigma=0.1, draws=1))
    assert float(gradient) == pytest.approx(3 + 0.1 * float(z) + 15)
    assert float(value) == pytest.approx((3 + 0.1 * float(z)) ** 2 / 2 + 5 * 9 / 2)


def test_noise_is_standard_normal_and_its_mean_that_of_the_draws() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1)})
    drawn = torch.stack([noise(bowls, Smooth(sigma=0.5, draws=1), step) for step in range(400)])
    assert float(drawn.mean()) == pytest.approx(0, abs=4 / 2000**0.5)
    assert float(drawn.std()) == pytest.approx(1, abs=0.07)
    assert float(noise(bowls, Smooth(sigma=0.5, draws=4000)).abs().max()) < 4 / 4000**0.5  # so the gradient's mean is that of the untouched


def test_noise_is_new_each_step_and_draw_and_a_function_of_the_step() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2)})
    one, again, later = (noise(bowls, Smooth(sigma=0.5, draws=1), step) for step in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, later)
    assert not torch.allclose(one, noise(bowls, Smooth(sigma=0.5, draws=2)))
    assert bowls.under(Smooth(sigma=0.5), roles=("retain",))[1].equal(bowls.gradient("retain"))
    bowls.asked.clear()
    bowls.under(Smooth(sigma=0.5, draws=3))
    assert bowls.asked == [("forget",)] * 3 + [("retain",)]


def test_weights_come_back_bit_for_bit(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("random_smoothing", {"sigma": 0.1, "lr": 0, "steps": 2}), model, text.modality, text.sets)
    assert worlds.same(worlds.tensors(model), worlds.tensors(text.model()))


def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("random_smoothing", {"lr": 1e-3, "epochs": 20, "steps": 0, "batch_size": 9}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 2.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.8

"""Randomized smoothing: its mean, its noise, and the outcome."""

import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.methods.updates.random_smoothing import Smooth
from expunge.workflows import build_plan
from quadratic import Bowls, spd, vector


def noise(bowls: Bowls, update: Smooth, step: int = 0) -> torch.Tensor:
    """The mean noise of a step, recovered from the gradient of a quadratic loss."""
    _, gradient = bowls.under(update, roles=("forget",), step=step)
    return torch.linalg.solve(bowls.curvature["forget"], gradient - bowls.gradient("forget")) / update.sigma


def test_smoothed_gradient_matches_hand_values() -> None:
    line = Bowls(torch.tensor([3.0], dtype=torch.float64), {"forget": torch.eye(1).double(), "retain": 5 * torch.eye(1).double()})
    z = noise(line, Smooth(sigma=0.1, draws=1))
    value, gradient = line.under(Smooth(sigma=0.1, draws=1))
    assert float(gradient) == pytest.approx(3 + 0.1 * float(z) + 15)
    assert float(value) == pytest.approx((3 + 0.1 * float(z)) ** 2 / 2 + 5 * 9 / 2)


def test_noise_is_standard_normal_and_averages_out_over_draws() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1)})
    drawn = torch.stack([noise(bowls, Smooth(sigma=0.5, draws=1), step) for step in range(400)])
    assert float(drawn.mean()) == pytest.approx(0, abs=4 / 2000**0.5)
    assert float(drawn.std()) == pytest.approx(1, abs=0.07)
    assert (
        float(noise(bowls, Smooth(sigma=0.5, draws=4000)).abs().max()) < 4 / 4000**0.5
    )  # so the mean gradient is the gradient at the original weights


def test_noise_differs_between_steps_and_draws_and_depends_only_on_the_step() -> None:
    bowls = Bowls(vector(0), {"forget": spd(1), "retain": spd(2)})
    first, repeated, later = (noise(bowls, Smooth(sigma=0.5, draws=1), step) for step in (0, 0, 1))
    assert torch.equal(first, repeated)
    assert not torch.allclose(first, later)
    assert not torch.allclose(first, noise(bowls, Smooth(sigma=0.5, draws=2)))
    assert bowls.under(Smooth(sigma=0.5), roles=("retain",))[1].equal(bowls.gradient("retain"))
    bowls.requested_roles.clear()
    bowls.under(Smooth(sigma=0.5, draws=3))
    assert bowls.requested_roles == [("forget",)] * 3 + [("retain",)]


def test_weights_are_restored_bit_for_bit(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("random_smoothing", {"sigma": 0.1, "lr": 0, "steps": 2}), model, text.modality, text.sets)
    assert worlds.same(worlds.tensors(model), worlds.tensors(text.model()))


@pytest.mark.slow
def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = text.model()
    loop.run(build_plan.plan("random_smoothing", {"lr": 1e-3, "epochs": 20, "steps": 0, "batch_size": 9}), model, text.modality, text.sets)
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 2.5
    assert worlds.nll(model, text.modality, text.sets["retain"]) < 0.8

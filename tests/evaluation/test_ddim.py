"""DDIM and its inversion: exact where the noise is known, better with more steps, and the same as the sampler of `diffusers`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import denoisers
from expunge.evaluation.ddim import Ddim
from expunge.modalities.diffusion.libraries import class_of
from expunge.modalities.diffusion.process import process_of


class Known(Ddim):
    """The noise is a function of the latent and the level."""

    noise: Any = None

    def split(self, latents: Tensor, captions: Any, level: int) -> tuple[Tensor, Tensor]:
        e = type(self).noise(latents, level)
        return latents, e


def known(noise: Any, scheduler: Any) -> Ddim:
    modality: Any = SimpleNamespace(process=process_of(scheduler), capabilities=denoisers.built()[1].capabilities, name="known")
    return type("Kind", (Known,), {"noise": staticmethod(noise)})(nn.Identity(), modality)


@pytest.mark.parametrize("name", ["DDIMScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_inversion_is_exact_for_noise_that_does_not_depend_on_the_latent(name: str) -> None:
    e = torch.randn(2, 3, 4, 4, dtype=torch.double)
    ddim = known(lambda x, level: e, class_of(name)())
    x = torch.randn(2, 3, 4, 4, dtype=torch.double)
    grid = ddim.grid(20)
    reached = ddim.inverted(x, ["", ""], grid)
    assert len(reached) == len(grid) == 20
    assert torch.allclose(ddim.sampled(reached[-1], ["", ""], grid), x, atol=1e-5)
    assert torch.allclose(ddim.sampled(reached[7], ["", ""], grid[:8]), x, atol=1e-5)


def test_the_noise_is_predicted_at_the_time_of_the_next_level() -> None:
    """With e = t x one step is z_t = s_t / s_s (z - n_s t z) + n_t t z; at the level below it would be another number."""
    ddim = known(lambda x, level: level / 1000 * x, class_of("DDIMScheduler")())
    below, level = 101, 201
    kept = process_of(class_of("DDIMScheduler")()).signal
    (s_below, s), t = kept[[below, level]].tolist(), level / 1000
    n_below, n = (1 - s_below**2) ** 0.5, (1 - s**2) ** 0.5
    x = torch.ones(1, 1, 1, 1, dtype=torch.double)
    reached = ddim.inverted(x, [""], [below, level])[-1]
    assert float(reached) == pytest.approx(s / s_below * (1 - n_below * t) + n * t, rel=1e-6)


def test_a_grid_of_fifty_steps_is_that_of_the_paper() -> None:
    grid = known(lambda x, level: x, class_of("DDIMScheduler")()).grid(50)
    assert grid[:3] == [1, 21, 41]
    assert grid[-2:] == [961, 981]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_step_is_that_of_diffusers(prediction: str) -> None:
    model, modality = denoisers.built()
    scheduler = class_of("DDIMScheduler")(prediction_type=prediction, clip_sample=False, steps_offset=1)
    modality.process, modality.scheduler = process_of(scheduler), scheduler
    captions, seeds, guidance = ["a red bar", "a blue square"], [1, 2], 2.0
    start, _ = modality.sample(model, captions, seeds, steps=10, until=0)
    ddim = Ddim(model, modality, guidance)
    grid = ddim.grid(10)
    own = ddim.sampled(start, captions, grid)
    expected, index = modality.sample(model, captions, seeds, steps=10, guidance=guidance, until=9)
    assert index.tolist() == [1, 1]
    assert torch.allclose(own, expected, atol=1e-3, rtol=1e-3)


def test_more_steps_invert_better() -> None:
    model, modality = denoisers.built()
    rows = modality.rows("forget", denoisers.records(1)[:2])
    x = torch.stack([modality.latents.read(p) for p in rows["latent"]])
    errors = []
    for steps in (4, 16, 64):
        ddim = Ddim(model, modality)
        grid = ddim.grid(steps)[: 3 * steps // 4]
        reached = ddim.inverted(x, rows["caption"], grid)[-1]
        errors.append(float((ddim.sampled(reached, rows["caption"], grid) - x).norm()))
    assert errors[0] > errors[1] > errors[2]


def test_a_model_of_classes_and_one_that_is_given_nothing(tmp_path: Any) -> None:
    from expunge.io.models import load

    opened = load(denoisers.diffusion_transformer(tmp_path))
    latents = torch.randn(2, 4, 8, 8)
    moved = Ddim(opened.model, opened.modality, 3.0).sampled(latents, ["red", "blue"], [1, 400])
    assert moved.shape == latents.shape
    assert not torch.allclose(moved, Ddim(opened.model, opened.modality).sampled(latents, ["red", "blue"], [1, 400]))

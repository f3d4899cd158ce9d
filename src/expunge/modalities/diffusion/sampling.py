"""Sampling: from noise to a picture, with the scheduler of the pipeline and guidance by the empty prompt, for a whole batch at once."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def sampler_of(scheduler: Any) -> Any:
    """A copy of the scheduler to sample with. DDPM, which takes all its steps and draws noise in each, becomes DDIM of the same process."""
    if type(scheduler).__name__ == "DDPMScheduler":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        config = {k: v for k, v in scheduler.config.items() if not k.startswith("_") and k not in ("variance_type", "steps_offset")}
        return DDIMScheduler(**{k: v for k, v in config.items() if k in DDIM}, set_alpha_to_one=True)
    return copy.deepcopy(scheduler)


DDIM = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "clip_sample",
    "clip_sample_range",
    "prediction_type",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
    "rescale_betas_zero_snr",
)


@torch.no_grad()
def sampled(
    model: nn.Module, scheduler: Any, start: Tensor, conditions: Mapping[str, Tensor], steps: int, guidance: float, until: int = -1
) -> tuple[Tensor, Tensor | None]:
    """Latents after some or all steps of a sampling.

    Args:
        model: see `DiffusionModel`.
        scheduler: of `diffusers`; it stays as it is.
        start: normal noise, (rows, channels, height, width).
        conditions: keywords of the model; with guidance those of the empty prompt before those of the captions, (2 rows, ...).
        steps: of the whole sampling.
        guidance: weight of the caption's prediction; 1: none.
        until: steps that are taken; -1: all.

    Returns:
        The latents, and the time that they stand at, as the denoiser is given it; None for the end, which is without noise.
    """
    sampler = sampler_of(scheduler)
    with warnings.catch_warnings():  # some schedulers read tensors by deprecated ways of numpy
        warnings.simplefilter("ignore")
        sampler.set_timesteps(steps, device=start.device)
    latents = start * sampler.init_noise_sigma if hasattr(sampler, "init_noise_sigma") else start
    scale = getattr(sampler, "scale_model_input", lambda x, time: x)
    times = sampler.timesteps
    taken = len(times) if until < 0 else min(until, len(times))
    for time in times[:taken]:
        given = scale(latents, time)
        given = torch.cat([given, given]) if guidance != 1 else given
        predicted = model(given, time.expand(len(given)).to(given.device), **conditions)
        if guidance != 1:
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + guidance * (conditional - unconditional)
        latents = sampler.step(predicted, time, latents, return_dict=False)[0]
    return latents, times[taken] if taken < len(times) else None

"""Sampling by two models: one constructs the scene, both share the middle, one enhances the subject.

Source: Face-diffuser (arXiv 2311.10329). The two need not be its own: an original and an unlearned model share a picture as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.functional.brief import brief
from expunge.functional.noise_fusion import PADDING, WINDOW, GuidedNoise, fused_noise, stage_of

Denoiser = Callable[[Tensor, Any], GuidedNoise]  # noisy latents and a time


@dataclass(frozen=True)
class Stages:
    """Who denoises when, counted in calls from 0, and how saliency is smoothed.

    Args:
        last_of_scene: the last call of the model of scenes alone; -1: there is none.
        last_of_fusion: the last call that both share.
        window, padding: of the average pooling of saliency; a window of 1 does without.
    """

    last_of_scene: int = 15
    last_of_fusion: int = 30
    window: int = WINDOW
    padding: int = PADDING


@brief("latents")
@dataclass(frozen=True)
class Collaboration:
    """What two models drew.

    Args:
        latents: (batch, channels, height, width).
        masks: where the model of subjects won, by call, each (batch, 1, height, width); of the shared calls alone.
    """

    latents: Tensor
    masks: dict[int, Tensor]


@torch.no_grad()
def collaborate(scheduler: Any, latents: Tensor, steps: int, scene: Denoiser, subject: Denoiser, stages: Stages) -> Collaboration:
    """Denoise latents with two models.

    Args:
        scheduler: of `diffusers`; it may call more often than `steps`, and stages count its calls.
        latents: noise of unit variance, (batch, channels, height, width).
        steps: asked of the scheduler.
        scene, subject: noise with guidance, of each model.
        stages: who denoises when.

    Returns:
        Latents without noise, and the masks of fusion.
    """
    scheduler.set_timesteps(steps)
    x, masks = latents * scheduler.init_noise_sigma, {}
    for i, time in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(x, time)
        stage = stage_of(i, stages.last_of_scene, stages.last_of_fusion)
        if stage == "both":
            noise, masks[i] = fused_noise(scene(given, time), subject(given, time), stages.window, stages.padding)
        else:
            noise = (scene if stage == "scene" else subject)(given, time).noise
        x = scheduler.step(noise, time, x, return_dict=False)[0]
    return Collaboration(x, masks)

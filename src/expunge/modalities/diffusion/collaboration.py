"""Sampling by two models: one constructs the scene, both share the middle, one enhances the subject.

Source: Face-diffuser (arXiv 2311.10329). The two need not be its own: an original and an unlearned model share a picture as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from expunge.engine.adapters import base_of
from expunge.functional.brief import brief
from expunge.functional.noise_fusion import PADDING, WINDOW, GuidedNoise, fused_noise, guided, stage_of
from expunge.modalities.diffusion.process import Process
from expunge.modalities.diffusion.sampling import sampler_of

if TYPE_CHECKING:
    from expunge.modalities.diffusion.modality import Diffusion

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


def guided_denoiser(denoiser: Any, process: Process, base: Tensor, condition: Tensor, guidance: float) -> Denoiser:
    """A denoiser of `diffusers` with guidance. Its response is in units of noise, whatever it predicts.

    Args:
        denoiser: reads states.
        process: what it predicts.
        base, condition: states of the point of reference and of the condition, (batch, words, width).
        guidance: g.
    """

    def predict(x: Tensor, time: Any) -> GuidedNoise:
        at = torch.full((2 * len(x),), float(time), device=x.device)
        both = denoiser(torch.cat([x, x]), at, encoder_hidden_states=torch.cat([base, condition]), return_dict=False)[0]
        of_base, of_condition = both.chunk(2)
        predicted, response = guided(of_base, of_condition, guidance)
        return GuidedNoise(predicted, response * noise_per_prediction(process, float(time)))

    return predict


def noise_per_prediction(process: Process, time: float) -> float:
    """By how much the noise in a given latent grows with the prediction: 1 for epsilon, and the share of signal for velocities."""
    index = int(process.index(torch.tensor([time]))[0])
    signal, noise = float(process.signal[index]), float(process.noise[index])
    return {"epsilon": 1.0, "sample": -signal / noise}.get(process.kind, signal)


@torch.no_grad()
def blended(
    models: tuple[nn.Module, nn.Module],
    modality: Diffusion,
    captions: Sequence[str],
    seeds: Sequence[int],
    stages: Stages,
    steps: int = 0,
    guidance: float = -1,
) -> Collaboration:
    """Draw with two text-conditional models of one modality, such as an original and an unlearned one: the second has the part of subjects.

    Each is guided against the empty prompt. Where fusion never ends, each place follows the model that the caption moves more.

    Args:
        models: of scenes, and of subjects.
        captions, seeds: (rows,).
        stages: who denoises when.
        steps, guidance: 0 and -1: as the modality's settings say.

    Returns:
        Latents, and where the second model won.
    """
    guidance = modality.settings.guidance if guidance < 0 else guidance
    denoisers = []
    for model in models:
        states = modality.encode(model, [*[""] * len(captions), *captions])
        base: Any = base_of(model)
        empty, of_captions = states.chunk(2)
        denoisers.append(guided_denoiser(base.denoiser, modality.process, empty, of_captions, guidance))
    like = next(models[0].parameters())
    shape = (base.channels, *base.sides)
    start = torch.stack([torch.randn(*shape, generator=Generator().manual_seed(seed)) for seed in seeds]).to(like)
    scene, subject = denoisers
    return collaborate(sampler_of(modality.scheduler), start, steps or modality.settings.steps, scene, subject, stages)


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

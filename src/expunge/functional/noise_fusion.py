"""Two diffusion models share the denoising of one picture: each place follows the model whose guidance is more salient there.

Source: Face-diffuser (arXiv 2311.10329). All tensors of noise are (batch, channels, height, width); maps have one channel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, PADDING = 4, 1  # of the average pooling, for latents of 64 x 64


class GuidedNoise(NamedTuple):
    """A prediction with guidance.

    Args:
        noise: E = eps_base + R.
        response: R = g (eps_condition - eps_base).
    """

    noise: Tensor
    response: Tensor


def guided(base: Tensor, condition: Tensor, guidance: float) -> GuidedNoise:
    """Classifier-free guidance, and what it adds.

    Args:
        base: the prediction for the point of reference: without a prompt for a model of scenes, with the text alone for one of subjects.
        condition: the prediction for the condition.
        guidance: g; 1 is the condition alone.
    """
    response = guidance * (condition - base)
    return GuidedNoise(base + response, response)


def smoothed(x: Tensor, window: int = WINDOW, padding: int = PADDING) -> Tensor:
    """Average pooling of stride 1, zeros around the picture counted, and bilinear resizing back. A window of 1 changes nothing.

    Args:
        x: (batch, channels, height, width).
        window: side of the window; an even one shifts by half a pixel.
        padding: zeros around the picture.

    Returns:
        The same shape.
    """
    if window == 1:
        return x
    pooled = F.avg_pool2d(x, window, stride=1, padding=padding)
    return F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False)


def saliency(response: Tensor, window: int = WINDOW, padding: int = PADDING) -> Tensor:
    """How much of the guidance of a model acts at each place: the softmax over all places of the smoothed, averaged |R|.

    Args:
        response: R of a model.
        window, padding: of `smoothed`.

    Returns:
        (batch, 1, height, width), each map sums to 1.
    """
    strength = smoothed(response.abs(), window, padding).mean(1, keepdim=True)
    return strength.flatten(1).softmax(1).view_as(strength)


def fusion_mask(scene: Tensor, subject: Tensor, window: int = WINDOW, padding: int = PADDING) -> Tensor:
    """1 where the model of subjects is more salient than the model of scenes, which takes the ties.

    Args:
        scene, subject: R of each model.
        window, padding: of `smoothed`.

    Returns:
        (batch, 1, height, width), zeros and ones in the type of R.
    """
    return (saliency(subject, window, padding) > saliency(scene, window, padding)).to(scene.dtype)


def fused_noise(scene: GuidedNoise, subject: GuidedNoise, window: int = WINDOW, padding: int = PADDING) -> tuple[Tensor, Tensor]:
    """Saliency-adaptive noise fusion: M E_subject + (1 - M) E_scene.

    Args:
        scene, subject: predictions of each model.
        window, padding: of `smoothed`.

    Returns:
        The noise, (batch, channels, height, width), and the mask M, (batch, 1, height, width).
    """
    mask = fusion_mask(scene.response, subject.response, window, padding)
    return torch.where(mask.bool(), subject.noise, scene.noise), mask


def stage_of(call: int, last_of_scene: int, last_of_fusion: int) -> str:
    """Who denoises at a call of the model, counted from 0: scene up to `last_of_scene`, both up to `last_of_fusion`, then subject.

    Returns:
        scene, both or subject.
    """
    return "scene" if call <= last_of_scene else "both" if call <= last_of_fusion else "subject"


def localization(attention: Tensor, masks: Tensor, present: Tensor) -> Tensor:
    """How far the attention of subjects' words lies outside them: -1 where each word attends to its subject alone, at full weight.

    Mean over the background minus mean over the subject, averaged over the subjects of a row and over heads; 1e-5 is added to each sum of
    masks and to the number of subjects.

    Args:
        attention: probabilities of each subject's word at each place, (batch, subjects, heads, height, width).
        masks: of the subjects from 0 to 1, (batch, subjects, rows, columns); they are resized to the attention.
        present: whether a row has the subject, (batch, subjects).

    Returns:
        (batch,); 0 for a row without subjects.
    """
    resized = F.interpolate(masks.to(attention.dtype), size=attention.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
    inside = resized[:, :, None]
    means = [(attention * m).sum((-2, -1)) / (m.sum((-2, -1)) + 1e-5) for m in (1 - inside, inside)]
    here = present.to(attention.dtype)
    of_heads = ((means[0] - means[1]) * here[..., None]).sum(1) / (here.sum(1) + 1e-5)[:, None]
    return of_heads.mean(1)

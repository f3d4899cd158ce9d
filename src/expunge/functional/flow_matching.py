"""Flow matching along straight lines from data to noise: what a model is trained on, and the steps of Euler's method back.

x_sigma = sigma noise + (1 - sigma) x, and the velocity dx/dsigma = noise - x. Source: LINA (arXiv 2601.22630) and NOVA.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

TIMES = 1000  # entries of the table of noise levels
LEAST_SIGMA = 1 / TIMES


def training_sigma(normal: Tensor) -> Tensor:
    """Noise levels for training: 1 - floor(1000 sigmoid(n)) / 1000, which lie in {0.001, ..., 1}.

    Args:
        normal: draws from a standard normal distribution, of any shape.

    Returns:
        The same shape.
    """
    index = (TIMES * normal.double().sigmoid()).floor().clamp(0, TIMES - 1)
    return (1 - index / TIMES).to(normal.dtype)


def noised(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Data at a noise level: sigma noise + (1 - sigma) x. All shapes broadcast."""
    return sigma * noise + (1 - sigma) * x


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """What the model is to predict at every noise level: noise - x."""
    return noise - x


def velocity_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the last dimension. Returns: the shape without it."""
    return (predicted - target).square().mean(-1)


def euler_sigmas(steps: int) -> list[float]:
    """Noise levels of sampling: `steps` values on a line from 1 to 0.001, then 0."""
    return [1 - (1 - LEAST_SIGMA) * i / max(steps - 1, 1) for i in range(steps)] + [0.0]


def euler(x: Tensor, steps: int, predict: Callable[[Tensor, float], Tensor]) -> Tensor:
    """Go from noise to data by Euler's method: x <- x + (sigma' - sigma) v(x, sigma).

    Args:
        x: noise, of any shape.
        steps: how many.
        predict: the velocity at x and a noise level.

    Returns:
        The same shape.
    """
    sigmas = euler_sigmas(steps)
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * predict(x, sigma)
    return x


def frequencies(times: Tensor, count: int = 128) -> Tensor:
    """[cos, sin] of times at frequencies 10000^(-k / count), (..., 2 count). times: of any shape."""
    rates = 10000.0 ** (-torch.arange(count, device=times.device, dtype=torch.float64) / count)
    angles = times.double()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1).to(times.dtype)

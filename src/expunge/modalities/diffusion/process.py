"""How noise is put on a picture, at each time, and what the denoiser predicts of it. Read from the scheduler of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import UserError
from expunge.functional.brief import brief

KINDS = ("epsilon", "v_prediction", "sample", "flow")  # what a denoiser may predict


@brief("kind", "signal")
@dataclass(frozen=True, eq=False)
class Process:
    """The way from a picture to noise: at the time of index k a latent is `signal[k] x + noise[k] e`, with e normal. Index 0 is cleanest.

    Args:
        kind: what the denoiser predicts: epsilon (e), v_prediction (signal e - noise x), sample (x) or flow (the velocity e - x).
        signal, noise: factors, (times,), float64.
        time: what the denoiser is given as the time, (times,).
    """

    kind: str
    signal: Tensor
    noise: Tensor
    time: Tensor

    def __len__(self) -> int:
        return len(self.time)

    def noisy(self, x: Tensor, e: Tensor, index: Tensor) -> Tensor:
        """Latents with noise. x, e: (rows, channels, height, width). index: of the times, (rows,)."""
        signal, noise = self._factors(index, x)
        return signal * x + noise * e

    def target(self, x: Tensor, e: Tensor, index: Tensor) -> Tensor:
        """What the denoiser is to predict, of the shape of x."""
        signal, noise = self._factors(index, x)
        return {"epsilon": lambda: e, "sample": lambda: x, "flow": lambda: e - x, "v_prediction": lambda: signal * e - noise * x}[
            self.kind
        ]()

    def parts(self, latents: Tensor, predicted: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The picture and the noise that latents consist of by a prediction, each of their shape.

        Args:
            latents, predicted: (rows, channels, height, width).
            index: of the times, (rows,).
        """
        signal, noise = self._factors(index, latents)
        if self.kind == "epsilon":
            return (latents - noise * predicted) / signal, predicted
        if self.kind == "sample":
            return predicted, (latents - signal * predicted) / noise
        if self.kind == "flow":
            return latents - noise * predicted, latents + signal * predicted
        return signal * latents - noise * predicted, noise * latents + signal * predicted

    def index(self, time: Tensor) -> Tensor:
        """The index of the time nearest to each of some times, (rows,)."""
        return (time[:, None].double() - self.time.to(time.device)).abs().argmin(1)

    def _factors(self, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        signal, noise = (f[index.cpu()].to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1)) for f in (self.signal, self.noise))
        return signal, noise


def process_of(scheduler: Any) -> Process:
    """The process that a scheduler of `diffusers` belongs to.

    Raises:
        UserError: for a scheduler whose process is not known, and for one whose denoiser predicts something else.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if "FlowMatch" in name:
        sigmas = torch.arange(1, config.num_train_timesteps + 1, dtype=torch.float64) / config.num_train_timesteps
        if not config.get("use_dynamic_shifting"):
            sigmas = config.shift * sigmas / (1 + (config.shift - 1) * sigmas)
        return Process("flow", 1 - sigmas, sigmas, sigmas * config.num_train_timesteps)
    kind, kept = config.get("prediction_type"), getattr(scheduler, "alphas_cumprod", None)
    if kept is None or kind not in KINDS:
        raise UserError(
            f"the scheduler {name} with the prediction {kind!r} is not supported: schedulers with the noise of DDPM (DDPM, DDIM, PNDM, "
            f"Euler, DPMSolver ...) that predict epsilon, v_prediction or sample are, and flow matching (FlowMatchEulerDiscrete)"
        )
    kept = kept.double()
    return Process(kind, kept.sqrt(), (1 - kept).sqrt(), torch.arange(len(kept), dtype=torch.float64))

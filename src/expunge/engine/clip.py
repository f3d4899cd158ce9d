"""Clipping, the last change of every gradient."""

from __future__ import annotations

from torch import Tensor

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import GradCall, Grads, Update
from expunge.engine.context import RunStep
from expunge.engine.gradient import global_norm


@part
class Clip(Update):
    """Gradient clipping by the global norm."""

    norm: float = hp(1.0, "largest norm of the whole gradient", gt=0)

    def wrap(self, grads: Grads, step: RunStep) -> GradCall:
        def clipped(*roles: str) -> tuple[Tensor, list[Tensor]]:
            value, gradients = grads(*roles)
            scale = (self.norm / (global_norm(gradients) + 1e-6)).clamp_max(1.0)
            return value, [g * scale for g in gradients]

        return clipped

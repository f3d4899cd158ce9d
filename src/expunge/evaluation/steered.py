"""A model whose prediction lies on the line through those of two models, or beyond one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Steered(nn.Module):
    """Predicts weak + omega (strong - weak). In everything else it is like the strong model.

    Guidance by the empty prompt is linear in predictions, so that guiding this model is to steer between the two guided models.

    Args:
        weak, strong: models of one kind, called with the same arguments.
        omega: 0: the weak one, 1: the strong one, both bit for bit; above 1: away from the weak one.
    """

    def __init__(self, weak: nn.Module, strong: nn.Module, omega: float) -> None:
        super().__init__()
        self.weak, self.strong, self.omega = weak, strong, omega

    def forward(self, *args: Any, **keywords: Any) -> Tensor:
        """The prediction, of the shape that both models give."""
        return torch.lerp(self.weak(*args, **keywords), self.strong(*args, **keywords), self.omega)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("weak", "strong"):  # during a copy
                raise
            return getattr(self.strong, name)

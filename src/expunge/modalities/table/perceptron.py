"""A perceptron over the inputs of a table; without hidden layers, a linear model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Perceptron(nn.Module):
    """Layers of rectified units, and a linear head.

    Args:
        width: inputs of a point.
        classes: how many there are.
        hidden: widths of the hidden layers.
    """

    def __init__(self, width: int, classes: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"width": width, "classes": classes, "hidden": list(hidden)}
        widths = [width, *hidden]
        blocks = (nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(widths, hidden, strict=False))
        self.layers = nn.ModuleList(blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (rows, classes). x: points, (rows, width)."""
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x)
        return logits

"""A small classifier of vectors, such as mean hidden states, into two classes: standardized inputs, hidden layers, weighted classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP:
    """A multilayer perceptron with the probability of the second class as its output.

    Args:
        net: linear layers with what is between them, from (rows, width) to (rows, 2).
        mean, scale: of the training vectors, (width,); inputs are standardized by them.
    """

    def __init__(self, net: nn.Sequential, mean: Tensor, scale: Tensor) -> None:
        self.net, self.mean, self.scale = net.eval(), mean, scale

    @classmethod
    def fit(
        cls,
        x: Tensor,
        y: Tensor,
        *,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.1,
        lr: float = 1e-3,
        batch_size: int = 32,
        epochs: int = 50,
        seed: int = 0,
    ) -> Self:
        """Train by Adam on cross-entropy in which both classes weigh the same.

        Args:
            x: vectors, (rows, width).
            y: classes 0 and 1, (rows,); both occur.
            hidden: units of a hidden layer.
            layers: number of hidden layers.
        """
        mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
        inputs, weight = (x - mean) / scale, len(y) / (2 * torch.bincount(y, minlength=2).clamp_min(1))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            net = _net(x.shape[1], hidden, layers, dropout)
            optimizer = torch.optim.Adam(net.parameters(), lr=lr)
            for _ in range(epochs):
                for batch in torch.randperm(len(x), generator=generator).split(batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(net(inputs[batch]), y[batch], weight=weight.to(x)).backward()
                    optimizer.step()
        return cls(net, mean, scale)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The probability of the second class, (rows,), of vectors (rows, width)."""
        p: Tensor = self.net((x - self.mean) / self.scale).softmax(-1)[:, 1]
        return p

    def tensors(self) -> dict[str, Tensor]:
        """All that it knows, by name."""
        return {"mean": self.mean, "scale": self.scale, **{n: t.detach() for n, t in self.net.state_dict().items()}}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The classifier that `tensors` gave."""
        weights = {n: t for n, t in tensors.items() if n not in ("mean", "scale")}
        matrices = [t for t in weights.values() if t.dim() == 2]
        net = _net(matrices[0].shape[1], matrices[0].shape[0] if len(matrices) > 1 else 0, len(matrices) - 1, 0.0)
        net.load_state_dict(weights)
        return cls(net, tensors["mean"], tensors["scale"])


def _net(width: int, hidden: int, layers: int, dropout: float) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for size in [width, *[hidden] * (layers - 1)][:layers]:
        blocks += [nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*blocks, nn.Linear(hidden if layers else width, 2))

"""NeuMF: a product of vectors beside a perceptron over two further vectors, joined by a linear layer.

The usual neural recommender, and the one here with hidden layers, which methods on representations need.

Source: He et al. 2017, Neural collaborative filtering (arXiv 1708.05031)
Differs: one negative for each interaction, redrawn each step, where the paper has four; both halves are trained at once, without
  pretraining; the loss is computed from logits
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import Recommender, Table

SIZES = {"neumf-nano": (16, [32, 16]), "neumf-micro": (32, [64, 32, 16])}  # width of the vectors, of the layers
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 40, "lr": 5e-3, "batch_size": 256, "optimizer": "adam", "weight_decay": 1e-5, "schedule": "constant"} for size in SIZES
}


class Layer(nn.Module):
    """A linear layer with ReLU."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.linear(x).relu()
        return activated


class NeuMF(Recommender):
    """Generalized matrix factorization and a perceptron.

    Args:
        width: of the vectors of either half.
        widths: of the perceptron's layers.
    """

    head = "output"

    def __init__(self, users: int, items: int, width: int, widths: Sequence[int]) -> None:
        super().__init__(users, items, width=width, widths=list(widths))
        self.user_table, self.item_table = Table(users, width), Table(items, width)
        self.user_input, self.item_input = Table(users, width), Table(items, width)
        sizes = [2 * width, *widths]
        self.layers = nn.ModuleList(Layer(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(width + sizes[-1], 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        x = torch.cat([self.user_input(users), self.item_input(items)], -1)
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.output(torch.cat([self.user_table(users) * self.item_table(items), x], -1))
        return scores[:, 0]


recommender = NeuMF


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    width, widths = SIZES[size]
    return start_model("neumf", "bce", {"width": width, "widths": widths}, records, **options)

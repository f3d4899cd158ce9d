"""Deep matrix factorization (DMF): two towers that read the row of a user and the column of an item, compared by their cosine.

The inputs are the interactions themselves, so that a model forgets part of an interaction as soon as it leaves the training interactions.

Equation: x_u = Y_u P, y_i = Y'_i Q, Y the matrix of interactions; each further layer is relu(W x + b); c = cos(x, y);
  p(u, i) = max(1e-6, c), and the score is its log-odds
Source: Xue et al. 2017, Deep matrix factorization models for recommender systems (IJCAI)
Differs: every interaction counts as 1, so that their normalized cross-entropy is the usual one; the score is the log-odds of p, so that
  cross-entropy of scores as logits is theirs of p (CURE4Rec, arXiv 2408.14393, takes the cosine itself for a logit); one negative for
  each interaction, redrawn each step
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import GraphModel, Recommender, Table

SIZES = {"dmf-nano": (32, [16]), "dmf-micro": (128, [64])}  # width of the first layer, of the further ones
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 40, "lr": 5e-3, "batch_size": 256, "optimizer": "adam", "weight_decay": 1e-5, "schedule": "constant"} for size in SIZES
}
LEAST = 1e-6  # probability of an interaction at least, and of none


class Tower(nn.Module):
    """Layers with ReLU. widths: of the input and of each layer."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


class DMF(GraphModel):
    """Towers over interactions.

    Args:
        width: of the first layer, which has a vector for each item (of users' rows) and each user (of items' columns).
        widths: of the further layers.
    """

    def __init__(self, users: int, items: int, width: int, widths: Sequence[int]) -> None:
        super().__init__(users, items, width=width, widths=list(widths))
        self.user_table, self.item_table = Table(users, width), Table(items, width)
        self.of_users, self.of_items = Tower([width, *widths]), Tower([width, *widths])

    def vectors(self) -> tuple[Tensor, Tensor]:
        rows = self.graph.product(self.item_table.weight, ones, "ones")
        columns = self.graph.transposed.product(self.user_table.weight, ones, "ones")
        return F.normalize(self.of_users(rows), dim=-1), F.normalize(self.of_items(columns), dim=-1)

    def scored(self, products: Tensor) -> Tensor:
        return log_odds(products)


def ones(of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """The weights of edges that all count alike. of_rows, of_columns: the degrees of their ends, (edges,)."""
    return torch.ones_like(of_rows)


def log_odds(cosines: Tensor) -> Tensor:
    """The logits of probabilities that are cosines, at least `LEAST` and at most 1 - `LEAST`."""
    return cosines.clamp(LEAST, 1 - LEAST).logit()


recommender = DMF


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    width, widths = SIZES[size]
    return start_model("dmf", "bce", {"width": width, "widths": widths}, records, **options)

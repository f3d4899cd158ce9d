"""LightGCN: vectors of users and items that are averaged over the graph of interactions, without weights or activations in between.

The most used graph recommender. Its graph holds the training interactions themselves, so forgetting concerns the graph, too.

Equation: E(k+1) = D^-1/2 A D^-1/2 E(k); vectors are the mean of E(0) to E(layers); the score is their product
Source: He et al. 2020, LightGCN: simplifying and powering graph convolution network for recommendation (arXiv 2002.02126)
Differs: interactions to forget leave the graph before the first step of unlearning, as a model is served that must not use them; the L2
  term of the batch's first layer is the optimizer's weight decay
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import GraphModel, Recommender, Table, light_vectors

SIZES = {"lightgcn-nano": (16, 2), "lightgcn-micro": (64, 3)}  # width of the vectors, layers
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 60, "lr": 1e-2, "batch_size": 256, "optimizer": "adam", "weight_decay": 1e-5, "schedule": "constant"} for size in SIZES
}


class LightGCN(GraphModel):
    """Vectors that are spread over the graph.

    Args:
        width: of the vectors.
        layers: how often they are spread; 0: matrix factorization.
    """

    def __init__(self, users: int, items: int, width: int, layers: int) -> None:
        super().__init__(users, items, width=width, layers=layers)
        self.layers = layers
        self.user_table, self.item_table = Table(users, width), Table(items, width)

    def vectors(self) -> tuple[Tensor, Tensor]:
        return light_vectors(self, self.user_table.weight, self.item_table.weight, self.layers)


recommender = LightGCN


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    width, layers = SIZES[size]
    return start_model("lightgcn", "bpr", {"width": width, "layers": layers}, records, **options)

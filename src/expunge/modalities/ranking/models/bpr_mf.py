"""Matrix factorization with the BPR loss: the score of an item for a user is the product of their vectors.

A small and strong baseline of collaborative filtering: each interaction is to score higher than an item that the user never touched.

Source: Rendle et al. 2009, BPR: Bayesian personalized ranking from implicit feedback (arXiv 1205.2618)
Differs: negatives are uniform over the items that the user never interacted with, one for each interaction, redrawn each step; the L2
  term of the batch's vectors is the optimizer's weight decay
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import DotProduct, Recommender, Table

SIZES = {"bpr_mf-nano": 16, "bpr_mf-micro": 64}  # width of the vectors
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 60, "lr": 1e-2, "batch_size": 256, "optimizer": "adam", "weight_decay": 1e-5, "schedule": "constant"} for size in SIZES
}


class MatrixFactorization(DotProduct):
    """A vector for each user and each item.

    Args:
        width: of the vectors.
    """

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__(users, items, width=width)
        self.user_table, self.item_table = Table(users, width), Table(items, width)

    def user_vectors(self, users: Tensor) -> Tensor:
        vectors: Tensor = self.user_table(users)
        return vectors

    def item_vectors(self, items: Tensor) -> Tensor:
        vectors: Tensor = self.item_table(items)
        return vectors


recommender = MatrixFactorization


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    return start_model("bpr_mf", "bpr", {"width": SIZES[size]}, records, **options)

"""VBPR: matrix factorization whose items have a second vector, a linear function of their features (of images, of texts).

Equation: score(u, i) = <p_u, q_i> + <p'_u, E f_i + b>
Source: He and McAuley 2016, VBPR: visual Bayesian personalized ranking from implicit feedback (arXiv 1510.01784)
Differs: as in MMRec: no biases of items, all features of an item side by side, E with a bias; the L2 term is the optimizer's weight decay
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import DotProduct, Recommender, Table, features_in, register_features

SIZES = {"vbpr-nano": 16, "vbpr-micro": 64}  # width of either vector
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 60, "lr": 1e-2, "batch_size": 256, "optimizer": "adam", "weight_decay": 1e-5, "schedule": "constant"} for size in SIZES
}


class VBPR(DotProduct):
    """Vectors of ids beside vectors of features.

    Args:
        width: of either.
        features: (items, width) of each kind of features, by name.
    """

    def __init__(self, users: int, items: int, width: int, features: Mapping[str, Sequence[int]]) -> None:
        super().__init__(users, items, width=width, features=dict(features))
        register_features(self, features)
        self.user_table, self.item_table = Table(users, 2 * width), Table(items, width)
        self.projection = nn.Linear(sum(w for _, w in features.values()), width)

    def user_vectors(self, users: Tensor) -> Tensor:
        vectors: Tensor = self.user_table(users)
        return vectors

    def item_vectors(self, items: Tensor) -> Tensor:
        described = torch.cat([vectors[items] for vectors in features_in(self)], -1)
        return torch.cat([self.item_table(items), self.projection(described)], -1)


recommender = VBPR


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    return start_model("vbpr", "bpr", {"width": SIZES[size]}, records, needs_features=True, **options)

"""MMGCN: a graph network over the interactions for each kind of features (images, texts), whose vectors are averaged.

Equation: x_i = W f_i + b and x_u a vector of its own, of length 1; a layer is x+ = LeakyReLU(W3 [h; y]), where
  h = LeakyReLU(mean over neighbors of W1 x) and y = LeakyReLU(W2 x) + id vector; the vectors are the mean over kinds of the last layer
Source: Wei et al. 2019, MMGCN: multi-modal graph convolution network for personalized recommendation of micro-video
Differs: as in MMRec: three layers, the last alone counts, h and y are concatenated. Id vectors and the users' own vectors are trained
  weights, where MMRec keeps them as plain tensors that are neither trained nor saved; vectors are computed anew for each ranking; the
  features of every kind are projected, also those of texts; the regularizer is the optimizer's weight decay
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import GraphModel, Recommender, Table, features_in, register_features

SIZES = {"mmgcn-nano": (16, 2), "mmgcn-micro": (64, 3)}  # width of the vectors, layers
TRAINING: dict[str, dict[str, Any]] = {
    size: {"epochs": 40, "lr": 5e-3, "batch_size": 256, "optimizer": "adam", "weight_decay": 1e-5, "schedule": "constant"} for size in SIZES
}


class FeatureGraph(nn.Module):
    """The network of one kind of features.

    Args:
        users: how many there are.
        described: width of the features.
        width: of the vectors.
        layers: how many there are.
    """

    def __init__(self, users: int, described: int, width: int, layers: int) -> None:
        super().__init__()
        self.projection, self.preference = nn.Linear(described, width), Table(users, width)
        self.neighbor = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.joined = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))

    def forward(self, features: Tensor, ids: Tensor, graph: GraphModel) -> Tensor:
        """Vectors of all users and then of all items.

        Args:
            features: (items, described).
            ids: vectors of users and then of items, (users + items, width).
            graph: it has the edges.
        """
        x = F.normalize(torch.cat([self.preference.weight, self.projection(features)]))
        for neighbor, own, joined in zip(self.neighbor, self.own, self.joined, strict=True):
            of_users, of_items = torch.split(neighbor(x), [graph.users, graph.items])
            h = F.leaky_relu(torch.cat(graph.spread(of_users, of_items, power=1.0)))
            x = F.leaky_relu(joined(torch.cat([h, F.leaky_relu(own(x)) + ids], -1)))
        return x


class MMGCN(GraphModel):
    """A graph network for each kind of features.

    Args:
        width: of the vectors.
        layers: of each network.
        features: (items, width) of each kind, by name.
    """

    def __init__(self, users: int, items: int, width: int, layers: int, features: Mapping[str, Sequence[int]]) -> None:
        super().__init__(users, items, width=width, layers=layers, features=dict(features))
        register_features(self, features)
        self.user_table, self.item_table = Table(users, width), Table(items, width)
        self.graphs = nn.ModuleList(FeatureGraph(users, w, width, layers) for _, w in features.values())

    def vectors(self) -> tuple[Tensor, Tensor]:
        ids = torch.cat([self.user_table.weight, self.item_table.weight])
        every = [graph(vectors, ids, self) for graph, vectors in zip(self.graphs, features_in(self), strict=True)]
        of_users, of_items = torch.split(torch.stack(every).mean(0), [self.users, self.items])
        return of_users, of_items


recommender = MMGCN


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    width, layers = SIZES[size]
    return start_model("mmgcn", "bpr", {"width": width, "layers": layers}, records, needs_features=True, **options)

"""MGCN: LightGCN beside views of each kind of features, which gates purify by what users do, and a fuser that weighs the views.

Equation: content = LightGCN of the ids (2 layers). View of kind m: items e_i * sigmoid(gate(W f_i)), one step over the graph of the 10 most
  similar items; users R^ times these. common = softmax-weighted sum of the views, by a shared tanh query;
  side = (common + sum over m of sigmoid(gate_m(content)) * (view_m - common)) / (kinds + 1); vectors = content + side;
  L = BPR + contrast * (InfoNCE(side, content) of the batch's users + the same of its items), at temperature 0.2
Source: Yu et al. 2023, Multi-view graph convolutional network for multimedia recommendation (arXiv 2308.03588)
Differs: as in MMRec, the graph of items comes from the raw features, once, and the tables of features are trained; the regularizer is the
  optimizer's weight decay. The contrastive term between side and content is no loss of a row: finetune, retrain and mmrecun have it as
  --contrast (in `expunge train` 0.01 by default), other methods do without, and it spreads over the graph once more for each step
Status: faithful
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.modalities.ranking.building import start_model
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.network import (
    GraphModel,
    Recommender,
    Table,
    features_in,
    light_vectors,
    register_features,
)

SIZES = {"mgcn-nano": (16, 2), "mgcn-micro": (64, 2)}  # width of the vectors, layers
NEIGHBORS = 10  # of an item in the graph of items
TRAINING: dict[str, dict[str, Any]] = {
    size: {
        "epochs": 40,
        "lr": 5e-3,
        "batch_size": 256,
        "optimizer": "adam",
        "weight_decay": 1e-5,
        "schedule": "constant",
        "contrast": 0.01,
    }
    for size in SIZES
}


class Described(nn.Module):
    """Features of items as trained weights, which begin as the features themselves.

    Args:
        items: how many there are.
        width: of the features.
    """

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        register_features(self, {"": (items, width)})
        self.weight = nn.Parameter(torch.zeros(items, width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.copy_(self.get_buffer("feature_0"))


class FeatureView(nn.Module):
    """One kind of features as the model sees it.

    Args:
        items: how many there are.
        described: width of the features.
        width: of the vectors.
    """

    def __init__(self, items: int, described: int, width: int) -> None:
        super().__init__()
        self.table = Described(items, described)
        self.projection, self.gate, self.preference = nn.Linear(described, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of items, of which the gate lets through what the features say, (items, width)."""
        opened: Tensor = self.gate(self.projection(self.table.weight)).sigmoid()
        return ids * opened


class MGCN(GraphModel):
    """LightGCN with views of features.

    Args:
        width: of the vectors.
        layers: of LightGCN.
        features: (items, width) of each kind, by name.
    """

    def __init__(self, users: int, items: int, width: int, layers: int, features: Mapping[str, Sequence[int]]) -> None:
        super().__init__(users, items, width=width, layers=layers, features=dict(features))
        self.layers = layers
        self.user_table, self.item_table = Table(users, width), Table(items, width)
        self.views = nn.ModuleList(FeatureView(items, w, width) for _, w in features.values())
        for i in range(len(features)):
            self.register_buffer(f"similar_{i}", torch.zeros(items, 0, dtype=torch.long), persistent=False)
        self.query = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def connect(self, user: Tensor, item: Tensor) -> None:
        """Take other edges, and find the similar items by the features of this moment."""
        super().connect(user, item)
        for i, vectors in enumerate(features_in(self)):
            setattr(self, f"similar_{i}", similar(vectors, NEIGHBORS))

    def vectors(self) -> tuple[Tensor, Tensor]:
        content, side = self._views()
        of_users, of_items = torch.split(content + side, [self.users, self.items])
        return of_users, of_items

    def contrasted(self) -> list[tuple[Tensor, Tensor]]:
        """What training contrasts: side and content of all users, and of all items, (users, width) and (items, width)."""
        content, side = (torch.split(x, [self.users, self.items]) for x in self._views())
        return list(zip(side, content, strict=True))

    def _views(self) -> tuple[Tensor, Tensor]:
        """Content and side of all users and items, each (users + items, width)."""
        content = torch.cat(light_vectors(self, self.user_table.weight, self.item_table.weight, self.layers))
        views = [torch.cat(self._view(i, view)) for i, view in enumerate(self.views)]
        shares = torch.stack([self.query(v)[:, 0] for v in views]).softmax(0)
        common = (shares[..., None] * torch.stack(views)).sum(0)
        gates = [cast(FeatureView, view).preference(content).sigmoid() for view in self.views]
        rest = [gate * (x - common) for gate, x in zip(gates, views, strict=True)]
        return content, (common + torch.stack(rest).sum(0)) / (len(views) + 1)

    def _view(self, i: int, view: nn.Module) -> tuple[Tensor, Tensor]:
        """Vectors of users and items in one view."""
        neighbors = self.get_buffer(f"similar_{i}")
        of_items = view(self.item_table.weight)[neighbors].mean(1)
        of_users, _ = self.spread(self.user_table.weight, of_items)
        return of_users, of_items


@torch.no_grad()
def similar(features: Tensor, neighbors: int) -> Tensor:
    """The most similar items of each item, itself among them, by cosine.

    Each row of the graph has as many entries, so the symmetric normalization makes a step over it the mean of the neighbors.

    Args:
        features: (items, width).

    Returns:
        (items, neighbors), or fewer columns where there are fewer items.
    """
    unit = F.normalize(features)
    return torch.cat([(some @ unit.T).topk(min(neighbors, len(features))).indices for some in torch.split(unit, 1024)])


recommender = MGCN


def start(size: str, records: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Recommender, Ranking]:
    """An untrained model of a built-in size for the data. options: of `start_model`. Raises: UserError."""
    width, layers = SIZES[size]
    model, modality = start_model("mgcn", "bpr", {"width": width, "layers": layers}, records, needs_features=True, **options)
    for view in model.get_submodule("views").children():
        cast(FeatureView, view).table.reset_parameters()
    return model, modality

"""What the models of recommenders have in common: tables of vectors, and scores of pairs and of the whole catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.modalities.ranking.bipartite import Bipartite, bipartite

PAIRS = 1 << 18  # pairs that are scored at once, for models without a shorter way


def lacks(module: nn.Module, method: str) -> UserError:
    """The error of a class of models without a method that it must have."""
    return UserError(f"{type(module).__name__} has no method to score with: give the class {method}")


class Table(nn.Embedding):
    """Vectors of users or of items, small at first, so that all scores begin near 0."""

    std = 0.1

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class Recommender(nn.Module):
    """A model that scores pairs of user and item.

    Args:
        users, items: how many there are.
        settings: what rebuilds the model, besides its size, as plain data.
    """

    head = ""  # path of the linear layer whose input represents an interaction; '': there is none
    edges: Tensor

    def __init__(self, users: int, items: int, **settings: Any) -> None:
        super().__init__()
        self.users, self.items, self.settings = users, items, settings

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs. users, items: their numbers, each (pairs,). Returns: (pairs,). Raises: UserError for a class without it."""
        raise lacks(self, "forward(users, items), which returns a score for each pair")

    def catalog(self, users: Tensor) -> Tensor:
        """Scores of all items. users: their numbers, (users,). Returns: (users, items)."""
        size = max(1, PAIRS // self.items)
        every = torch.arange(self.items, device=users.device)
        pieces = [
            self(some.repeat_interleave(self.items), every.repeat(len(some))).view(-1, self.items) for some in torch.split(users, size)
        ]
        return torch.cat(pieces)

    def prepared(self) -> Callable[[Tensor], Tensor]:
        """`catalog`, for many calls while the weights stay as they are."""
        return self.catalog

    def connect(self, user: Tensor, item: Tensor) -> None:
        """Take other training interactions as the edges of the graph, each (pairs,). A model without a graph has nothing to do."""


class DotProduct(Recommender):
    """Scores are products of a user's and an item's vector."""

    def user_vectors(self, users: Tensor) -> Tensor:
        raise lacks(self, "user_vectors(users), which returns a vector for each number")

    def item_vectors(self, items: Tensor) -> Tensor:
        raise lacks(self, "item_vectors(items), which returns a vector for each number")

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user_vectors(users) * self.item_vectors(items)).sum(-1)

    def catalog(self, users: Tensor) -> Tensor:
        return self.user_vectors(users) @ self.item_vectors(torch.arange(self.items, device=users.device)).T


class GraphModel(Recommender):
    """Scores are products of vectors that come from all users and items at once, over the graph of training interactions.

    The graph is no weight: it is saved beside the weights (`interactions.safetensors`) and is built again when rows are forgotten.
    """

    def __init__(self, users: int, items: int, **settings: Any) -> None:
        super().__init__(users, items, **settings)
        self.register_buffer("edges", torch.zeros(2, 0, dtype=torch.long), persistent=False)
        self._graph: tuple[Tensor, Bipartite] | None = None

    def connect(self, user: Tensor, item: Tensor) -> None:
        self.edges = torch.stack([user, item]).to(device=self.edges.device, dtype=torch.long)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users and of all items, (users, width) and (items, width)."""
        raise lacks(self, "vectors(), which returns the vectors of all users and of all items")

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        of_users, of_items = self.vectors()
        return self.scored((of_users[users] * of_items[items]).sum(-1))

    def catalog(self, users: Tensor) -> Tensor:
        return self.prepared()(users)

    def prepared(self) -> Callable[[Tensor], Tensor]:
        """`catalog`, with the vectors computed once."""
        of_users, of_items = self.vectors()
        return lambda users: self.scored(of_users[users] @ of_items.T)

    def scored(self, products: Tensor) -> Tensor:
        """Scores from products of vectors, of any shape."""
        return products

    def spread(self, of_users: Tensor, of_items: Tensor, power: float = 0.5) -> tuple[Tensor, Tensor]:
        """One step over the graph: each node gets the sum over its neighbors, divided by degree^power * (neighbor's degree)^(1 - power).

        Args:
            of_users, of_items: a vector for each node, (users, width) and (items, width).
            power: 0.5 is the symmetric normalization; 1 is the mean over the neighbors.
        """
        graph = self.graph
        return (
            graph.product(of_items, lambda to_user, to_item: to_user**-power * to_item ** (power - 1), f"users {power}"),
            graph.transposed.product(of_users, lambda to_item, to_user: to_item**-power * to_user ** (power - 1), f"items {power}"),
        )

    @property
    def graph(self) -> Bipartite:
        """The edges as a matrix of users and items, made once for all steps until they change or move to another device."""
        if self._graph is None or self._graph[0] is not self.edges:
            self._graph = self.edges, bipartite(self.edges, self.users, self.items)
        return self._graph[1]


def register_features(model: nn.Module, features: Mapping[str, Sequence[int]]) -> None:
    """Give a model the vectors of its items as buffers `feature_0`, `feature_1` ..., which are saved with its weights and never trained.

    Args:
        features: their shapes, (items, width), by name; the vectors themselves are set later.
    """
    for i, shape in enumerate(features.values()):
        model.register_buffer(f"feature_{i}", torch.zeros(tuple(shape)))


def features_in(model: nn.Module) -> list[Tensor]:
    """The buffers of `register_features` in a model and its modules, in order, each (items, width)."""
    return [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2].startswith("feature_")]


def light_vectors(graph: GraphModel, of_users: Tensor, of_items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """The vectors of LightGCN: the mean over the layers of what spreads over the graph.

    Args:
        of_users, of_items: the first layer, (users, width) and (items, width).
        layers: further layers.
    """
    users, items = [of_users], [of_items]
    for _ in range(layers):
        of_users, of_items = graph.spread(of_users, of_items)
        users.append(of_users)
        items.append(of_items)
    return torch.stack(users).mean(0), torch.stack(items).mean(0)

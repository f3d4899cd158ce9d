"""A user's own module as a recommender."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from expunge.modalities.ranking.network import Recommender


class OwnModule(Recommender):
    """A module that scores pairs, made elsewhere.

    Args:
        module: takes numbers of users and of items, each (pairs,), and returns scores (pairs,). A module with a graph has a method
            `connect(users, items)`, which gets the training interactions again when some are forgotten.
        users, items: how many there are.
    """

    def __init__(self, module: nn.Module, users: int, items: int) -> None:
        super().__init__(users, items)
        self.module = module

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        scores: Tensor = self.module(users, items)
        return scores

    def connect(self, user: Tensor, item: Tensor) -> None:
        connect: Any = getattr(self.module, "connect", None)
        if connect is not None:
            connect(user, item)

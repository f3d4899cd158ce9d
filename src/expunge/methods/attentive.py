"""Tables of vectors that are weighted sums of the tables of several models, with weights that attend to the vectors themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCORE = 0.01  # weights of the attention's last layer at first, so that all models count about alike


class Transfer(nn.Module):
    """A linear map of the vectors of each model into one space, at first the identity.

    Args:
        models: how many there are.
        width: of the vectors.
    """

    def __init__(self, models: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width).repeat(models, 1, 1))
        self.bias = nn.Parameter(torch.zeros(models, 1, width))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors, (models, vectors, width), of the same shape as the result."""
        return torch.baddbmm(self.bias, vectors, self.weight.transpose(1, 2))


class AttentiveTable(nn.Module):
    """What stands in the place of an `nn.Embedding`: sums over models of their mapped vectors, weighted by attention.

    Args:
        tables: of each model, (models, rows, width); they do not train.
        transfer: the map, which other tables may share.
        dropout: share of the numbers of a vector that are dropped in training.
    """

    tables: Tensor

    def __init__(self, tables: Tensor, transfer: Transfer, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("tables", tables, persistent=False)
        self.transfer, self.dropout = transfer, dropout
        width = tables.shape[-1]
        self.hidden = nn.Linear(width, max(1, width // 2))
        self.score = nn.Linear(max(1, width // 2), 1, bias=False)
        nn.init.xavier_normal_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)
        nn.init.constant_(self.score.weight, SCORE)

    def shares(self, vectors: Tensor) -> Tensor:
        """The weight of each model, which sum to 1. vectors: mapped ones, (models, vectors, width). Returns: (models, vectors, 1)."""
        scores: Tensor = self.score(self.hidden(vectors).relu())
        return scores.softmax(0)

    def forward(self, rows: Tensor) -> Tensor:
        """The vectors of some rows of the table, (rows, width)."""
        mapped = self.transfer(self.tables[:, rows])
        return F.dropout((self.shares(mapped) * mapped).sum(0), self.dropout, self.training)

    @property
    def weight(self) -> Tensor:
        """The whole table, (rows, width)."""
        every: Tensor = self(torch.arange(self.tables.shape[1], device=self.tables.device))
        return every

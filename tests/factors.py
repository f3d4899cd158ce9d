"""Matrix factorization with squared errors, in float64: each row has a vector of its user and one of its item, and a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import squares
from expunge.core.capabilities import LooksUp
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.rows import Rows
from expunge.modalities.common.packed import call

TABLES = ("p", "q")


class Factors(nn.Module):
    """The prediction of a row is the product of its two vectors."""

    def __init__(self, p: Tensor, q: Tensor) -> None:
        super().__init__()
        self.p, self.q = nn.Parameter(p.double().clone()), nn.Parameter(q.double().clone())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.p[user] * self.q[item]).sum(-1)


@dataclass
class FactorsModality:
    """Half the squared error is a row's loss."""

    name: str = "factors"
    capabilities: frozenset[Any] = frozenset({LooksUp})

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        tensors = [[torch.tensor(list(g[c])) for c in ("user", "item", "y")] for g in groups]
        return [squares.Fit((call(model, weights, user, item) - y)[:, None]) for user, item, y in tensors]

    def counts(self, rows: Rows) -> Mapping[str, float]:
        return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))

    def independent(self, model: nn.Module) -> bool:
        return True

    def lookups(self, model: nn.Module, rows: Rows) -> list[tuple[Tensor, tuple[str, ...]]]:
        return [(torch.tensor(list(rows[c])), (t,)) for c, t in zip(("user", "item"), TABLES, strict=True)]


def rows(name: str, users: Sequence[int], items: Sequence[int], targets: Tensor) -> Rows:
    """Rows of pairs with targets, (rows,)."""
    ids = tuple(f"{u}/{i}" for u, i in zip(users, items, strict=True))
    return Rows(name, ids, {"user": list(users), "item": list(items), "y": targets.double().tolist()})


@dataclass
class Small:
    """Three users and eight items with vectors of three numbers; user 0 forgets two of seven ratings, and item 7 is touched by nobody."""

    q: Tensor
    p: Tensor
    sets: dict[str, Rows]
    targets: Tensor  # (users, items)

    def solution(self, user: int, items: Sequence[int], ridge: float = 0.0) -> Tensor:
        """Ridge regression of a user's targets on the vectors of items: retraining the user's vector alone."""
        q = self.q[list(items)]
        return torch.linalg.solve(q.T @ q + ridge * torch.eye(q.shape[1], dtype=q.dtype), q.T @ self.targets[user, list(items)])


FORGOTTEN, KEPT = (0, 1), (2, 3, 4, 5, 6)


def small(trained: bool = True, ridge: float = 0.0) -> Small:
    """trained: the users' vectors solve the least squares of all their rows, given the items'."""
    q, targets = squares.random(8, 3, seed=1), squares.random(3, 8, seed=2)
    pairs = [(u, i) for u in range(3) for i in range(7)]
    forget = [(0, i) for i in FORGOTTEN]
    retain = [pair for pair in pairs if pair not in forget]
    sets = {
        name: rows(name, [u for u, _ in some], [i for _, i in some], torch.stack([targets[u, i] for u, i in some]))
        for name, some in (("forget", forget), ("retain", retain))
    }
    world = Small(q, squares.random(3, 3, seed=3), sets, targets)
    if trained:
        world.p = torch.stack([world.solution(u, range(7), ridge) for u in range(3)])
    return world

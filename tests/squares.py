"""Least squares in float64: the model is one vector of weights, and retraining is a linear solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, DifferentiableInputs, Generates, Prompted
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.rows import Packed, Rows
from expunge.modalities.common.packed import call


class Linear(nn.Module):
    """A linear model: the predictions are the design times the weights, (rows, targets)."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.double().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta


@dataclass
class Fit:
    """The model output: a row's log-probability is minus half its squared error."""

    error: Tensor  # (rows, targets)
    predictions: Tensor | None = None  # (rows, targets)

    @property
    def loss(self) -> Packed:
        return Packed(self.error.square().sum(-1) / 2, torch.arange(len(self.error)), len(self.error))

    @property
    def target_logp(self) -> Packed:
        return self.loss.map(torch.neg)

    @property
    def logits(self) -> Packed:
        assert self.predictions is not None
        return Packed(self.predictions, torch.arange(len(self.predictions)), len(self.predictions))


@dataclass
class SquaresModality:
    """A row has a design, (targets, weights), and targets, (targets,)."""

    name: str = "squares"
    capabilities: frozenset[Any] = frozenset({Categorical, Generates, Prompted, DifferentiableInputs})

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        predictions = [call(model, weights, torch.stack(list(g["x"]))) for g in groups]
        return [Fit(p - torch.stack(list(g["y"])), p) for g, p in zip(groups, predictions, strict=True)]

    def counts(self, rows: Rows) -> Mapping[str, float]:
        return {"rows": len(rows), "labels": len(rows), "tokens": len(rows)}

    def independent(self, model: nn.Module) -> bool:
        return True


def rows(name: str, x: Tensor, y: Tensor) -> Rows:
    """Rows from designs x, (rows, weights) or (rows, targets, weights), and targets y, (rows,) or (rows, targets)."""
    x, y = (x[:, None], y[:, None]) if x.dim() == 2 else (x, y)
    return Rows(name, tuple(f"{name}{i}" for i in range(len(x))), {"x": list(x.double()), "y": list(y.double())})


def points(name: str, centers: Tensor) -> Rows:
    """Rows whose least squares solution is the mean of the centers, (rows, weights)."""
    return rows(name, torch.eye(centers.shape[1]).expand(len(centers), -1, -1), centers)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

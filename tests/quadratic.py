"""Losses that are quadratic in one vector of weights, 1/2 (x - c)' H (x - c) for each role: updates can be worked out on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import worlds
from expunge.core.parts import Grads, Update
from expunge.core.view import State
from expunge.engine import loop
from expunge.engine.context import RunStep
from tables import Table, TableModality


@dataclass
class Bowls:
    """One bowl a role: its curvature H, and optionally its lowest point."""

    start: Tensor
    curvature: Mapping[str, Tensor]
    lowest: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = Table(self.start)
        self.requested_roles: list[tuple[str, ...]] = []

    @property
    def grads(self) -> Grads:
        return Grads(self._call, self._hvp, [self.model.scores], frozenset(self.curvature))

    def gradient(self, role: str, at: Tensor | None = None) -> Tensor:
        """The gradient of one role, at the start or elsewhere."""
        at = self.start if at is None else at
        return self.curvature[role] @ (at - self.lowest.get(role, torch.zeros_like(at)))

    def _call(self, *roles: str) -> tuple[Tensor, list[Tensor]]:
        self.requested_roles.append(roles)
        x = self.model.scores.detach()
        off = {r: x - self.lowest.get(r, torch.zeros_like(x)) for r in roles}
        values = [0.5 * off[r] @ self.curvature[r] @ off[r] for r in roles]
        return torch.stack(values).sum(), [torch.stack([self.gradient(r, x) for r in roles]).sum(0)]

    def _hvp(self, vector: list[Tensor], *roles: str) -> list[Tensor]:
        return [torch.stack([self.curvature[r] @ vector[0] for r in roles]).sum(0)]

    def under(self, *updates: Update, roles: tuple[str, ...] = (), step: int = 0, state: State | None = None) -> tuple[Tensor, Tensor]:
        """Value and gradient under updates, the first next to the loss; the weights are as before, bit for bit.

        state: that of every update.
        """
        states = {f"/update{i}": state or {} for i in range(len(updates))}
        run, grads = loop.new_state(self.model, TableModality(), worlds.accelerator(), step=step, state=states), self.grads
        for i, update in enumerate(updates):
            grads = Grads(update.wrap(grads, RunStep(run, {}, {}).at(f"update{i}", update)), grads.hvp, grads.params, grads.roles)
        value, (gradient,) = grads(*roles)
        assert torch.equal(self.model.scores.detach(), self.start)
        return value, gradient


def spd(seed: int, size: int = 5) -> Tensor:
    """A random symmetric positive definite matrix."""
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T + torch.eye(size, dtype=torch.float64)


def vector(seed: int, size: int = 5) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

"""What a run keeps of a reference instead of a second model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import UndeclaredNeed
from expunge.core.rows import Packed


@dataclass
class CachedReference:
    """Losses of the positions that count, by row: all of the reference that most methods ask for."""

    losses: list[Tensor]

    @property
    def loss(self) -> Packed:
        sizes = torch.tensor([len(r) for r in self.losses])
        row = torch.arange(len(sizes)).repeat_interleave(sizes)
        values = torch.cat(self.losses)
        return Packed(values, row.to(values.device), len(sizes))

    @property
    def target_logp(self) -> Packed:
        return self.loss.map(torch.neg)

    def __getattr__(self, name: str) -> Any:
        raise UndeclaredNeed(f"the run keeps only losses of the reference; declare Need.REFERENCE to ask for {name!r}")

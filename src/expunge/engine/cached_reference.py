"""Cached losses of the reference model, which replace a second model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import UndeclaredNeed
from expunge.core.rows import Packed
from expunge.functional.brief import brief


@brief("losses")
@dataclass
class CachedReference:
    """The reference model's losses at the counted positions of each row. Most methods need nothing else of the reference."""

    losses: list[Tensor]  # for each row, (positions,) in nats

    @property
    def loss(self) -> Packed:
        lengths = torch.tensor([len(losses) for losses in self.losses])
        row = torch.arange(len(lengths)).repeat_interleave(lengths)
        values = torch.cat(self.losses)
        return Packed(values, row.to(values.device), len(lengths))

    @property
    def target_logp(self) -> Packed:
        return self.loss.map(torch.neg)

    def __getattr__(self, name: str) -> Any:
        raise UndeclaredNeed(f"the run keeps only the losses of the reference; declare Need.REFERENCE to ask for {name!r}")

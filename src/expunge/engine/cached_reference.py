"""What is kept of a reference in the place of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import UndeclaredNeed
from expunge.core.parts import Tokens


@dataclass
class Remembered:
    """Log-probs of the labelled positions, kept by row: all of the reference that most methods ask for."""

    by_row: list[Tensor]

    @property
    def logp(self) -> Tokens:
        sizes = torch.tensor([len(r) for r in self.by_row])
        row = torch.arange(len(sizes)).repeat_interleave(sizes)
        values = torch.cat(self.by_row)
        return Tokens(values, row.to(values.device), len(sizes))

    def __getattr__(self, name: str) -> Any:
        raise UndeclaredNeed(f"only log-probs of the reference are kept; declare Need.REFERENCE to ask for {name!r}")

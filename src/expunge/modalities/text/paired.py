"""Generation by two models that read the same text: the next token is chosen by a combination of their logits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.functional.brief import brief
from expunge.modalities.text.generate import Beginnings, Growth

Combine = Callable[[Tensor, Tensor], Tensor]  # logits of both models to those that count, of one shape


class PairedGrowth:
    """Rows of tokens that grow in both models alike."""

    def __init__(self, first: Growth, second: Growth, combine: Combine) -> None:
        self.first, self.second, self.combine = first, second, combine

    @property
    def ids(self) -> Tensor:
        return self.first.ids

    def logits(self) -> Tensor:
        """Combined, (rows, classes)."""
        return self.combine(self.first.logits(), self.second.logits())

    def append(self, tokens: Tensor) -> None:
        for growth in (self.first, self.second):
            growth.append(tokens)

    def keep(self, rows: Tensor) -> None:
        for growth in (self.first, self.second):
            growth.keep(rows)


@brief("first", "second")
@dataclass(frozen=True)
class PairedBeginnings:
    """What answers begin from: two models with the same prompts.

    Args:
        combine: from the logits of the first and of the second model to those that count.
    """

    first: Beginnings
    second: Beginnings
    combine: Combine

    def __len__(self) -> int:
        return len(self.first)

    def batches(self, size: int) -> Iterator[list[int]]:
        return self.first.batches(size)

    @torch.no_grad()
    def begin(self, rows: Sequence[int]) -> PairedGrowth:
        return PairedGrowth(self.first.begin(rows), self.second.begin(rows), self.combine)

    def begins_with(self, row: int) -> Hashable:
        return self.first.begins_with(row)

    @property
    def dropped(self) -> bool:
        return self.first.dropped and self.second.dropped

    def after(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> PairedBeginnings:
        return PairedBeginnings(self.first.after(rows, tokens), self.second.after(rows, tokens), self.combine)

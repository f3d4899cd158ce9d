"""Rows of data, and packed values at their positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of one named set. The modality and selectors define the columns; every part may use ids and weights."""

    name: str
    ids: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    weight: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Rows({self.name!r}, {len(self)} rows)"

    def __getitem__(self, column: str) -> Sequence[Any]:
        return self.columns[column]

    def select(self, places: Iterable[int]) -> Rows:
        """The rows at these places, in this order; places may repeat."""
        at = list(places)
        columns = {k: [v[i] for i in at] for k, v in self.columns.items()}
        return Rows(self.name, tuple(self.ids[i] for i in at), columns, tuple(self.weight[i] for i in at if self.weight))

    def add(self, **columns: Sequence[Any]) -> Rows:
        """The same rows with added or replaced columns."""
        return replace(self, columns={**self.columns, **columns})

    def rename(self, name: str) -> Rows:
        return replace(self, name=name)

    def concat(self, other: Rows) -> Rows:
        """These rows followed by the other ones, with the columns that both have. A missing weight counts as 1."""
        weights = [r.weight or (1.0,) * len(r) for r in (self, other)] if self.weight or other.weight else [(), ()]
        columns = {k: [*v, *other.columns[k]] for k, v in self.columns.items() if k in other.columns}
        return Rows(self.name, self.ids + other.ids, columns, weights[0] + weights[1])


Sets = Mapping[str, Rows]


@dataclass(frozen=True, eq=False)
class Packed:
    """Values at the counted positions, without padding or mask, so the shape of a row's values never depends on the rest of its batch."""

    values: Tensor = field(repr=False)  # (positions, ...)
    row: Tensor = field(repr=False)  # (positions,) index of each position's row
    rows: int
    kind: str = "labels"  # which count of the modality a mean over the logical batch divides by

    def sum(self) -> Tensor:
        """Sum over the positions of each row, (rows, ...)."""
        return self.values.new_zeros(self.rows, *self.values.shape[1:]).index_add(0, self.row, self.values)

    def mean(self) -> Tensor:
        """Mean over the positions of each row, (rows, ...)."""
        return self.sum() / self.lengths.clamp_min(1).view(-1, *[1] * (self.values.dim() - 1))

    @property
    def lengths(self) -> Tensor:
        """Number of positions of each row, (rows,)."""
        return torch.bincount(self.row, minlength=self.rows)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Packed:
        return replace(self, values=fn(self.values))

    def split(self) -> list[Tensor]:
        """The values of each row, as one tensor (positions, ...) per row."""
        return list(torch.split(self.values, self.lengths.tolist()))

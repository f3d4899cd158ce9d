"""The modality of tables without classes, whose model is a set of centroids. A row's loss is its squared distance from the nearest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Displayable
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.request import digest, ids_of
from expunge.core.rows import Packed, Rows
from expunge.functional.brief import brief
from expunge.modalities.common.network import Network
from expunge.modalities.common.packed import call
from expunge.modalities.table.capabilities import PlacesCentroids
from expunge.modalities.table.centroids import Centroids
from expunge.modalities.table.columns import Columns, encoded
from expunge.modalities.table.saving import save


@brief("rows")
@dataclass
class Distances:
    """Squared distances of rows from their nearest centroids, (rows,)."""

    squared: Tensor
    rows: int

    @property
    def loss(self) -> Packed:
        return Packed(self.squared, torch.arange(self.rows, device=self.squared.device), self.rows)


@brief("name", "columns")
@dataclass
class Clustering(Network):
    """The modality of clusters. columns: that the model reads; a class in the rows is not read."""

    columns: Columns
    name: str = "clusters"
    capabilities: frozenset[Any] = frozenset({PlacesCentroids, Displayable})

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records with a cell for every column to rows with the column `x`.

        Raises:
            UserError: when a record lacks a column, or holds what the model does not know; the message names the row.
        """
        x, cells = encoded(records, self.columns, source or name, name)
        return Rows(name, ids_of(list(cells)), {"x": list(torch.from_numpy(x))})

    def questions(self, rows: Rows) -> list[str]:
        """A text for each row; its cells stay out of reports."""
        return [f"row {k}" for k in range(1, len(rows) + 1)]

    def answer_texts(self, rows: Rows) -> list[str]:
        """Nothing: rows have no classes."""
        return [""] * len(rows)

    def pictures(self, rows: Rows) -> Tensor | None:
        """None: there are no pictures."""
        return None

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """The number of rows, labels and tokens, which are equal."""
        return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))

    def points(self, rows: Rows) -> Tensor:
        """The inputs of rows, (rows, inputs)."""
        return torch.stack(list(rows["x"]))

    def reshape(self, model: nn.Module, clusters: int) -> None:
        """Give a model so many centroids. They are unused afterwards, unless it has as many already.

        Raises:
            UserError: for centroids in another type than float32.
        """
        if isinstance(model, Centroids) and model.centroids.dtype != torch.float32:
            raise UserError("centroids are placed in float32: leave --dtype out")
        if isinstance(model, Centroids) and len(model.centroids) != clusters:
            model.reshape(clusters)

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """The squared distance of each row from the nearest centroid, for each group."""
        device = next(model.buffers()).device
        outputs: list[Any] = [Distances(call(model, weights, self.points(g).to(device)).amin(1), len(g)) for g in groups]
        return outputs

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write centroids and columns as `loader.load` reads them."""
        save(model, folder, self.columns)

    def about(self) -> dict[str, Any]:
        """How rows become the model's input, for the receipt."""
        return {
            "modality": self.name,
            "columns": len(self.columns),
            "schema": digest([[c.name, c.categories] for c in self.columns]),
        }

"""What only models of tables can do: they are built from points, and not trained by gradients."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from expunge.core.capabilities import MEANING, Categorical
from expunge.core.modality import Modality
from expunge.core.rows import Rows


class GrowsTrees(Categorical, Protocol):
    """The model is a forest of decision trees over points with classes."""

    def points(self, rows: Rows) -> Tensor: ...  # (rows, columns), float32
    def targets(self, rows: Rows) -> Tensor: ...  # (rows,) the class of each row
    def reshape(self, model: nn.Module, trees: int, depth: int) -> None: ...  # an untrained forest of this shape, in place


class PlacesCentroids(Modality, Protocol):
    """The model is a set of centroids, the nearest of which stands for a point."""

    def points(self, rows: Rows) -> Tensor: ...  # (rows, columns), float32
    def reshape(self, model: nn.Module, clusters: int) -> None: ...  # so many unused centroids, in place


MEANING[GrowsTrees] = "a forest of decision trees (a model of the built-in size `forest`)"
MEANING[PlacesCentroids] = "centroids of clusters (a model of the built-in size `centroids`)"

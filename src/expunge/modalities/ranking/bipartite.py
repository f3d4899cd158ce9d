"""The graph of users and items as a sparse matrix, whose products and their gradients cost as little as the edges ask for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.functional.brief import brief

Weigh = Callable[[Tensor, Tensor], Tensor]  # degrees of the row and of the column of each edge, (edges,) -> weights, (edges,)
FAST = (torch.float32, torch.float64)  # types that products of compressed rows are made for on every device


@brief("shape")
@dataclass(frozen=True, eq=False)
class Compressed:
    """A sparse matrix by compressed rows: where each row begins, and the column and the weight of each entry."""

    start: Tensor
    column: Tensor
    weight: Tensor
    shape: tuple[int, int]

    def times(self, x: Tensor) -> Tensor:
        """The product with a dense matrix (columns, width): (rows, width)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            matrix = torch.sparse_csr_tensor(self.start, self.column, self.weight, self.shape, check_invariants=False)
        product: Tensor = matrix @ x
        return product


class Product(torch.autograd.Function):
    """The product of a sparse matrix with a dense one, whose gradient is a product with the transposed matrix, which is at hand.

    The sparse product of torch makes the transposed matrix anew in each backward pass, which takes several times as long as all products.
    """

    @staticmethod
    def forward(x: Tensor, matrix: Compressed, transposed: Compressed) -> Tensor:
        return matrix.times(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.matrix, ctx.transposed = inputs

    @staticmethod
    def gradient(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        product: Tensor = Product.apply(outer, ctx.transposed, ctx.matrix)  # type: ignore[no-untyped-call]
        return product, None, None

    backward = gradient


@brief("rows", "columns")
@dataclass(eq=False)
class Bipartite:
    """Edges between the rows and the columns of a matrix.

    Args:
        row, column: of each edge, row by row, (edges,).
        rows, columns: how many there are.
        order: the places of the edges in the transposed order, column by column, (edges,).
    """

    row: Tensor
    column: Tensor
    rows: int
    columns: int
    order: Tensor
    _weights: dict[tuple[str, torch.dtype], tuple[Compressed, Compressed]] = field(default_factory=dict, repr=False)
    _transposed: Bipartite | None = field(default=None, repr=False)

    @property
    def transposed(self) -> Bipartite:
        """The same edges with rows and columns exchanged."""
        if self._transposed is None:
            row, column = self.column[self.order], self.row[self.order]
            self._transposed = Bipartite(row, column, self.columns, self.rows, self.order.argsort(), _transposed=self)
        return self._transposed

    def product(self, x: Tensor, weigh: Weigh, name: str) -> Tensor:
        """The product of the matrix with a dense one.

        Args:
            x: (columns, width).
            weigh: the weights of the edges, by the degrees of their two ends.
            name: of these weights, which are computed once for each name.

        Returns:
            (rows, width)
        """
        if (name, x.dtype) not in self._weights:
            self._weights[name, x.dtype] = self._weighted(weigh, x.dtype)
        matrix, transposed = self._weights[name, x.dtype]
        if x.dtype in FAST and not (x.requires_grad and torch.is_grad_enabled()):
            return matrix.times(x)
        if x.dtype in FAST:
            product: Tensor = Product.apply(x, matrix, transposed)  # type: ignore[no-untyped-call]
            return product
        return x.new_zeros(self.rows, x.shape[1]).index_add(0, self.row, matrix.weight[:, None] * x[self.column])

    def _weighted(self, weigh: Weigh, dtype: torch.dtype) -> tuple[Compressed, Compressed]:
        degrees = [torch.bincount(ends, minlength=count) for ends, count in ((self.row, self.rows), (self.column, self.columns))]
        weight = weigh(*(d.to(dtype)[ends] for d, ends in zip(degrees, (self.row, self.column), strict=True)))
        start, end = (torch.cat([d.new_zeros(1), d.cumsum(0)]) for d in degrees)
        return (
            Compressed(start, self.column, weight, (self.rows, self.columns)),
            Compressed(end, self.row[self.order], weight[self.order], (self.columns, self.rows)),
        )


def bipartite(edges: Tensor, rows: int, columns: int) -> Bipartite:
    """The graph of edges in any order, (2, edges): numbers of a row and of a column."""
    row, column = edges[:, (edges[0] * columns + edges[1]).argsort()]
    return Bipartite(row, column, rows, columns, column.argsort(stable=True))

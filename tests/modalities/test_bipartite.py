"""Sparse products and their derivatives against dense matrices, and places in rankings against counting."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from expunge.modalities.ranking import catalog
from expunge.modalities.ranking.bipartite import bipartite
from expunge.modalities.ranking.models.lightgcn import LightGCN

EDGES = torch.tensor([[2, 0, 1, 2, 0], [1, 3, 0, 0, 1]])  # in no order


def weigh(of_rows: torch.Tensor, of_columns: torch.Tensor) -> torch.Tensor:
    return of_rows**-0.5 * of_columns**-0.25


def dense() -> torch.Tensor:
    matrix = torch.zeros(4, 5, dtype=torch.double)
    matrix[EDGES[0], EDGES[1]] = 1
    return matrix * matrix.sum(1, keepdim=True).clamp_min(1) ** -0.5 * matrix.sum(0).clamp_min(1) ** -0.25


def test_products_are_those_of_the_dense_matrix() -> None:
    graph, x = bipartite(EDGES, 4, 5), torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(graph.product(x, weigh, "w"), dense() @ x)
    y = torch.randn(4, 3, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(graph.transposed.product(y, lambda a, b: weigh(b, a), "w"), dense().T @ y)
    assert torch.allclose(graph.product(x.bfloat16(), weigh, "w").double(), dense() @ x, atol=0.05)


def test_first_and_second_derivatives_are_right() -> None:
    graph = bipartite(EDGES, 4, 5)
    x = torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: graph.product(x, weigh, "w").sin(), x)
    assert torch.autograd.gradgradcheck(lambda x: graph.product(x, weigh, "w").sin(), x)


def test_other_edges_make_another_graph() -> None:
    model = LightGCN(4, 5, 3, 2).double()
    model.connect(*EDGES)
    before, other = model.vectors()[0], copy.deepcopy(model)
    assert torch.equal(other.vectors()[0], before)
    other.connect(*EDGES[:, 1:])
    fresh = LightGCN(4, 5, 3, 2).double()
    fresh.load_state_dict(model.state_dict())
    fresh.connect(*EDGES[:, 1:])
    assert torch.equal(other.vectors()[0], fresh.vectors()[0])
    assert not torch.equal(other.vectors()[0], before)


@pytest.mark.parametrize("ties", [False, True])
def test_places_are_counts_of_better_items(ties: bool) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (3, 40)).astype(np.float32) if ties else rng.normal(size=(3, 40)).astype(np.float32)
    scores[1, 7] = np.nan
    line, item = np.repeat([0, 1, 2], [5, 3, 8]), rng.integers(0, 40, 16)
    own = scores[line, item]
    better, alike = ((scores[line] > own[:, None]).sum(1), (scores[line] == own[:, None]).sum(1))
    expected = np.where(line == 1, catalog.BROKEN, better + (alike - 1) // 2)
    piece = catalog.Piece(np.arange(3), np.arange(16), item, line, torch.from_numpy(scores.copy()))
    assert catalog.places(piece).tolist() == expected.tolist()

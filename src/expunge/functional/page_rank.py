"""Personalized PageRank on an undirected graph without weights, and the graph of vectors that are alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def similarity_graph(vectors: Tensor, quantile: float = 0.75) -> Tensor:
    """Join two vectors by an edge if their cosine is at least a quantile of all entries of the matrix of cosines.

    Args:
        vectors: (nodes, width).
        quantile: of all entries, those of the diagonal, which are -1, included.

    Returns:
        Whether there is an edge, (nodes, nodes), symmetric and without loops.
    """
    unit = normalize(vectors.double(), dim=-1)
    cosines = (unit @ unit.T).clamp(-1, 1)
    cosines = (cosines + cosines.T) / 2
    cosines.fill_diagonal_(-1)
    return (cosines >= cosines.flatten().quantile(quantile)) & (cosines > -1)


def page_rank(edges: Tensor, start: int = 0, damping: float = 0.85, tolerance: float = 1e-6, limit: int = 1_000) -> Tensor:
    """The share of time that a random walk spends at each node, if it returns to one node now and then.

    Args:
        edges: (nodes, nodes), whether a walk may go from the row to the column, each edge with the same probability.
        start: the node to which the walk returns, also from a node without edges.
        damping: probability of following an edge.
        tolerance: the iteration stops once the changes of all nodes sum to less than this for each node.
        limit: most iterations.

    Returns:
        Probabilities, (nodes,), in double precision.
    """
    degrees = edges.double().sum(1)
    transition = edges.double() / degrees.clamp_min(1)[:, None]
    restart = torch.zeros(len(edges), dtype=torch.double)
    restart[start] = 1
    rank = torch.full_like(restart, 1 / len(edges))
    for _ in range(limit):
        stuck = rank[degrees == 0].sum()
        following = damping * (rank @ transition + stuck * restart) + (1 - damping) * restart
        rank, change = following, float((following - rank).abs().sum())
        if change < len(edges) * tolerance:
            break
    return rank


def min_max(scores: Tensor) -> Tensor:
    """Scores moved and scaled to reach from 0 to 1, (n,); all 0 where they are equal."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)

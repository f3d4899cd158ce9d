"""Personalized PageRank: values of small graphs, those of networkx, and the fixed point that defines it."""

import networkx
import pytest
import torch

from expunge.functional.page_rank import min_max, page_rank, similarity_graph


def graph(nodes: int, *edges: tuple[int, int]) -> torch.Tensor:
    joined = torch.zeros(nodes, nodes, dtype=torch.bool)
    for a, b in edges:
        joined[a, b] = joined[b, a] = True
    return joined


def test_a_hub_outweighs_the_target_where_this_is_a_leaf() -> None:
    leaf = min_max(page_rank(graph(4, (0, 1), (1, 2), (1, 3))))
    assert leaf.tolist() == pytest.approx([0.4555, 1, 0, 0], abs=1e-4)
    path = min_max(page_rank(graph(4, (0, 1), (1, 2), (2, 3))))
    assert path.tolist() == pytest.approx([0.7822, 1, 0.5334, 0], abs=1e-4)


@pytest.mark.parametrize("edges", [[(0, 1), (0, 2), (0, 3)], [(a, b) for a in range(4) for b in range(a)]])
def test_the_target_has_all_the_weight_in_a_star_and_in_a_complete_graph(edges: list[tuple[int, int]]) -> None:
    assert min_max(page_rank(graph(4, *edges))).tolist() == pytest.approx([1, 0, 0, 0], abs=1e-9)


def test_ranks_are_the_fixed_point_of_walk_and_return() -> None:
    edges = graph(5, (0, 1), (1, 2), (0, 2))  # nodes 3 and 4 have no edge
    rank = page_rank(edges, tolerance=1e-14)
    walk = edges.double() / edges.sum(1).clamp_min(1)[:, None]
    walk[3:, 0] = 1
    start = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.double)
    assert torch.allclose(rank, 0.85 * rank @ walk + 0.15 * start, atol=1e-12)
    assert rank.sum().item() == pytest.approx(1)


def test_ranks_equal_those_of_networkx() -> None:
    drawn = networkx.gnp_random_graph(12, 0.2, seed=1)  # some of its nodes have no edge
    ranks = networkx.pagerank(drawn, personalization={0: 1})
    edges = torch.tensor(networkx.to_numpy_array(drawn)).bool()
    assert (edges.sum(1) == 0).any()
    assert page_rank(edges).tolist() == pytest.approx([ranks[i] for i in range(12)], abs=1e-9)


def test_equal_scores_have_no_weight() -> None:
    assert not min_max(page_rank(graph(1))).any()


def test_edges_join_vectors_above_a_quantile_of_all_cosines() -> None:
    angles = torch.tensor([0.0, 0.1, 1.5, 3.0], dtype=torch.double)
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    cosines = (angles[:, None] - angles).cos()
    cosines.fill_diagonal_(-1)
    joined = similarity_graph(vectors)
    assert torch.equal(joined, cosines >= torch.quantile(cosines, 0.75))
    assert joined.sum() == 4
    assert not similarity_graph(torch.tensor([[1.0, 0], [-1.0, 0]])).any(), "a cosine of exactly -1 never joins"

"""k-means by division: one bucket is k-means as scikit-learn has it, merged centroids by hand, and what a deletion computes anew."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import chisquare
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris

from expunge.functional.divided_kmeans import ancestors, cluster, leaf_of, lloyd, redo, starts_of

IRIS = load_iris(return_X_y=True)[0]


def test_rounds_are_those_of_scikit_learn() -> None:
    starts = IRIS[[0, 60, 120]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge in three rounds
        theirs = KMeans(3, init=starts, n_init=1, max_iter=3, tol=0).fit(IRIS).cluster_centers_
    assert lloyd(IRIS, starts, 3) == pytest.approx(theirs)


def test_starts_are_drawn_by_squared_distance() -> None:
    """From 0, the second start is 1 with probability 1/10 and 3 with 9/10, and so on for the other first starts."""
    x = np.array([[0.0], [1.0], [3.0]])
    pairs = [tuple(starts_of(x, 2, np.random.default_rng(seed))[:, 0].tolist()) for seed in range(900)]
    law = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13, (3, 1): 4 / 13}
    assert set(pairs) <= set(law)
    assert chisquare([pairs.count(p) for p in law], [300 * share for share in law.values()]).pvalue > 1e-3


def test_fewer_different_points_than_clusters_give_fewer_centroids() -> None:
    x = np.array([[2.0], [2.0], [5.0]])
    assert sorted(cluster(x, 4, 10, 0, (0, 0))[:, 0].tolist()) == [2.0, 5.0]


def test_merged_centroids_by_hand() -> None:
    """Leaves of two points each and one centroid: their means go up unweighted, so that the root is the mean of means."""
    points = {0: np.array([[0.0], [2.0]]), 1: np.array([[10.0]]), 2: np.zeros((0, 1))}
    centroids, read = redo(points, {}, range(3), 1, 5, 0, (3, 1))
    assert {b: c.tolist() for b, c in centroids.items()} == {(1, 0): [[1.0]], (1, 1): [[10.0]], (1, 2): [], (0, 0): [[5.5]]}
    assert read == 3 + 2


def test_only_the_path_to_the_root_is_clustered_again() -> None:
    random = np.random.default_rng(0)
    points = {leaf: random.normal(size=(5, 2)) for leaf in range(4)}
    before, _ = redo(points, {}, range(4), 2, 3, 0, (2, 2))
    points[2] = points[2][1:]
    after, read = redo({2: points[2]}, before, [2], 2, 3, 0, (2, 2))
    fresh, _ = redo(points, {}, range(4), 2, 3, 0, (2, 2))
    assert all(np.array_equal(after[b], fresh[b]) for b in fresh)
    assert all(after[b] is before[b] for b in before if b not in ancestors(2, 2, 2))
    assert read == 4 + 4 + 4


def test_ancestors_of_a_leaf() -> None:
    assert ancestors(5, 2, 3) == [(3, 5), (2, 2), (1, 1), (0, 0)]


def test_leaves_are_uniform_over_seeds() -> None:
    counts = np.bincount([leaf_of("a1b2", 4, seed) for seed in range(800)], minlength=4)
    assert chisquare(counts).pvalue > 1e-3

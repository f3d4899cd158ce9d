"""k-means by division: points fall into the leaves of a tree of buckets, and each bucket clusters what its children send up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from expunge.core.random import seed_of

Array = np.ndarray[Any, Any]
Bucket = tuple[int, int]  # level, from the root at 0, and place in it


def squared_distances(x: Array, centroids: Array) -> Array:
    """(points, centroids)."""
    return np.asarray(((x[:, None] - centroids) ** 2).sum(2))


def starts_of(x: Array, clusters: int, random: np.random.Generator) -> Array:
    """Starting centroids by k-means++: points, each drawn by its squared distance from those before; fewer where points are the same.

    Args:
        x: points, (points, width), at least one.
        clusters: how many there are at most.
    """
    chosen = [int(random.integers(len(x)))]
    nearest = squared_distances(x, x[chosen])[:, 0]
    while len(chosen) < clusters and nearest.sum() > 0:
        chosen.append(int(random.choice(len(x), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, squared_distances(x, x[chosen[-1:]])[:, 0])
    return np.asarray(x[chosen])


def lloyd(x: Array, centroids: Array, rounds: int) -> Array:
    """Centroids after so many rounds: each moves to the mean of the points that are nearest to it, or stays where there are none."""
    for _ in range(rounds):
        nearest = squared_distances(x, centroids).argmin(1)
        sizes = np.bincount(nearest, minlength=len(centroids))
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, x)
        centroids = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centroids)
    return centroids


def leaf_of(row_id: str, leaves: int, seed: int) -> int:
    """The leaf of a row, uniform over seeds, whatever other rows there are."""
    return seed_of(seed, "leaf", row_id) % leaves


def ancestors(leaf: int, width: int, height: int) -> list[Bucket]:
    """The buckets from a leaf to the root."""
    return [(level, leaf // width ** (height - level)) for level in range(height, -1, -1)]


def cluster(x: Array, clusters: int, rounds: int, seed: int, bucket: Bucket) -> Array:
    """The centroids that a bucket sends up, (at most clusters, width); none of no points. Its random choices are those of its place."""
    if not len(x):
        return np.asarray(x)
    random = np.random.default_rng(seed_of(seed, "bucket", *bucket))
    return lloyd(x, starts_of(x, clusters, random), rounds)


def redo(
    points: Mapping[int, Array],
    known: Mapping[Bucket, Array],
    touched: Collection[int],
    clusters: int,
    rounds: int,
    seed: int,
    shape: tuple[int, int],
) -> tuple[dict[Bucket, Array], int]:
    """The centroids of all buckets after some leaves got other points.

    Args:
        points: of each leaf, (points, width), in an order that no other leaf changes.
        known: centroids of the other buckets.
        touched: leaves.
        shape: width and height of the tree: children of a bucket, and levels below the root.

    Returns:
        Centroids by bucket, and how many points the buckets clustered, together.
    """
    width, height = shape
    centroids, read = dict(known), 0
    buckets = {bucket for leaf in touched for bucket in ancestors(leaf, width, height)}
    for level, place in sorted(buckets, reverse=True):
        children: Sequence[Array] = [centroids[level + 1, place * width + k] for k in range(width)] if level < height else [points[place]]
        x = np.concatenate(children)
        centroids[level, place] = cluster(x, clusters, rounds, seed, (level, place))
        read += len(x)
    return centroids, read

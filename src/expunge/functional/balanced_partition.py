"""Partitions into clusters of about equal size, so that each has its own model and all models have as much data.

Source: constrained k-means: Chen et al. 2022, Recommendation unlearning (RecEraser), arXiv 2201.06820; by optimal transport: Li et al.
  2023, UltraRE (NeurIPS 2023)
Differs: centroids are means along each dimension, while RecEraser's code takes one mean over all; the plan of the transport is solved to
  the end, while the code of CURE4Rec (arXiv 2408.14393) caps its iterations by mistake
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor


class Clusters(NamedTuple):
    """A partition of samples."""

    labels: Tensor  # (samples,) the cluster of each
    centroids: list[Tensor]  # by view, (clusters, width)


def greedy(scores: Tensor, capacity: int) -> Tensor:
    """Give samples to clusters: the pair with the highest score of all first, as long as its cluster has room and its sample is free.

    Args:
        scores: (samples, clusters).
        capacity: samples that a cluster takes at most; all clusters together take all samples.

    Returns:
        The cluster of each sample, (samples,).
    """
    samples, clusters = scores.shape
    if capacity * clusters < samples:
        raise ValueError(f"{clusters} clusters of {capacity} do not hold {samples} samples")
    labels, room = torch.full((samples,), -1), torch.full((clusters,), capacity)
    free = torch.arange(samples)
    while len(free):  # a sample's first pair with a cluster that has room is its best one, until another cluster is full
        best, cluster = scores[free].masked_fill(room == 0, -torch.inf).max(1)
        order = best.sort(descending=True, stable=True).indices
        taken = torch.nn.functional.one_hot(cluster[order], clusters).cumsum(0)
        full = ((taken == room) & (room > 0)).any(1).nonzero()[:, 0]  # places in the order at which some cluster gets its last sample
        until = int(full[0]) + 1 if len(full) else len(order)
        accepted = order[:until]
        labels[free[accepted]] = cluster[accepted]
        room = room - torch.bincount(cluster[accepted], minlength=clusters)
        left = torch.ones(len(free), dtype=torch.bool)
        left[accepted] = False
        free = free[left]
    return labels


def constrained_kmeans(
    views: Sequence[Tensor],
    clusters: int,
    slack: float = 1.2,
    rounds: int = 50,
    combine: Literal["product", "sum"] = "product",
    generator: Generator | None = None,
) -> Clusters:
    """Cluster samples by k-means whose clusters have room for few more samples than their share.

    Args:
        views: vectors of the samples, each (samples, width); several where a sample has several, such as those of a user and of an item.
        clusters: how many.
        slack: room of a cluster, as a multiple of samples / clusters, rounded up.
        rounds: assignments at most; it ends earlier where none changes.
        combine: how the squared distances of several views become one: by their product, as published, under which a distance of 0 in one
            view hides that in the other; or by their sum.
        generator: draws the samples that are the first centroids.
    """
    samples = len(views[0])
    if not 1 <= clusters <= samples or slack < 1:
        raise ValueError(f"{samples} samples make 1 to {samples} clusters, with a slack of 1 or more")
    first = torch.randperm(samples, generator=generator)[:clusters]
    centroids, labels = [view[first] for view in views], torch.full((samples,), -1)
    capacity = -int(-slack * samples // clusters)
    for _ in range(rounds):
        distances = torch.stack([torch.cdist(view, center).square() for view, center in zip(views, centroids, strict=True)])
        assigned = greedy(-(distances.prod(0) if combine == "product" else distances.sum(0)), capacity)
        if torch.equal(assigned, labels):
            break
        labels = assigned
        centroids = [_means(view, labels, center) for view, center in zip(views, centroids, strict=True)]
    return Clusters(labels, centroids)


def transported(x: Tensor, clusters: int, rounds: int = 10, generator: Generator | None = None, entropy: float = 0.0) -> Clusters:
    """Cluster samples by optimal transport: each cluster gets the mass of samples / clusters at the least sum of squared distances.

    A sample that the plan divides goes where most of it goes, so sizes differ from equal ones by less than the number of clusters (without
    entropy).

    Args:
        x: vectors of the samples, (samples, width).
        clusters: how many.
        rounds: plans at most; it ends earlier where no label changes.
        generator: draws the samples that are the first centroids.
        entropy: 0: exact plans; else plans by Sinkhorn's iterations with this weight of the entropy, in units of the mean distance.
    """
    samples = len(x)
    if not 1 <= clusters <= samples:
        raise ValueError(f"{samples} samples make 1 to {samples} clusters")
    centroids, labels = x[torch.randperm(samples, generator=generator)[:clusters]], torch.full((samples,), -1)
    for _ in range(rounds):
        costs = torch.cdist(x, centroids).square()
        assigned = (sinkhorn(costs, entropy * float(costs.mean())) if entropy else transport_plan(costs)).argmax(1)
        if torch.equal(assigned, labels):
            break
        labels = assigned
        centroids = _means(x, labels, centroids)
    return Clusters(labels, [centroids])


def transport_plan(costs: Tensor) -> Tensor:
    """The optimal plan between samples of mass 1 / samples and clusters of mass 1 / clusters, by linear programming.

    Args:
        costs: of a unit of mass from each sample to each cluster, (samples, clusters).

    Returns:
        Masses in float64, (samples, clusters); a vertex of the polytope, so that fewer than `clusters` samples are divided.
    """
    import numpy as np
    from scipy.optimize import linprog
    from scipy.sparse import eye, kron, vstack

    samples, clusters = costs.shape
    sums = vstack([kron(eye(samples), np.ones((1, clusters))), kron(np.ones((1, samples)), eye(clusters))]).tocsr()
    masses = np.concatenate([np.ones(samples), np.full(clusters, samples / clusters)])
    flat = costs.detach().cpu().double().numpy().ravel()
    plan = linprog(flat, A_eq=sums, b_eq=masses, bounds=(0, None), method="highs-ds").x
    return torch.from_numpy(plan.reshape(samples, clusters) / samples)


def sinkhorn(costs: Tensor, entropy: float, iterations: int = 1000, tolerance: float = 1e-6) -> Tensor:
    """The plan between the same masses as `transport_plan` that is optimal with a bonus for its entropy, by Sinkhorn's iterations.

    Args:
        costs: of a unit of mass, (samples, clusters).
        entropy: weight of the entropy, in units of the costs; near 0 the plan is that of `transport_plan`, and needs more iterations.
        iterations: at most.
        tolerance: of the masses of the samples, as a share of them.

    Returns:
        Masses in float64, (samples, clusters); those of the clusters are exact.
    """
    samples, clusters = costs.shape
    kernel = -costs.detach().double() / max(entropy, torch.finfo(torch.float64).tiny)
    of_cluster, mass = torch.zeros(clusters, dtype=torch.float64, device=costs.device), torch.tensor([samples, clusters]).double().log()
    for _ in range(iterations):
        of_sample = -mass[0] - (kernel + of_cluster).logsumexp(1)
        of_cluster = -mass[1] - (kernel + of_sample[:, None]).logsumexp(0)
        plan = (kernel + of_sample[:, None] + of_cluster).exp()
        if float((plan.sum(1) * samples - 1).abs().max()) < tolerance:
            break
    return plan


def _means(x: Tensor, labels: Tensor, before: Tensor) -> Tensor:
    """The mean of each cluster along each dimension; that of before where a cluster is empty."""
    sums = torch.zeros_like(before).index_add(0, labels, x)
    counts = torch.bincount(labels, minlength=len(before))[:, None]
    return torch.where(counts > 0, sums / counts.clamp_min(1), before)

"""Balanced partitions: the greedy assignment by a plain loop, k-means by hand, and transport against an assignment solver."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from expunge.functional.balanced_partition import constrained_kmeans, greedy, sinkhorn, transport_plan, transported


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loop(scores: torch.Tensor, capacity: int) -> list[int]:
    """As published: sort all pairs, and take each whose sample is free and whose cluster has room."""
    labels, room = [-1] * len(scores), [capacity] * scores.shape[1]
    for pair in scores.flatten().argsort(descending=True).tolist():
        sample, cluster = divmod(pair, scores.shape[1])
        if labels[sample] < 0 and room[cluster]:
            labels[sample], room[cluster] = cluster, room[cluster] - 1
    return labels


@pytest.mark.parametrize(("samples", "clusters", "capacity"), [(12, 3, 4), (31, 4, 9), (10, 5, 10), (7, 7, 1), (5, 1, 5)])
def test_greedy_assignment_is_that_of_a_plain_loop(samples: int, clusters: int, capacity: int) -> None:
    for seed in range(5):
        scores = random(samples, clusters, seed=seed)
        assert greedy(scores, capacity).tolist() == by_loop(scores, capacity)


def test_greedy_assignment_takes_a_pass_for_each_cluster_that_fills_up(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = list[int]()
    count = torch.bincount
    monkeypatch.setattr(torch, "bincount", lambda *inputs, **options: (passes.append(1), count(*inputs, **options))[1])
    scores = torch.randn(500, 5, generator=torch.Generator().manual_seed(0)) + torch.arange(5) * 3
    greedy(scores, 100)  # all want the last cluster, then the one before it
    assert len(passes) <= 5


def test_too_little_room_is_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters of 2 do not hold 5 samples"):
        greedy(random(5, 2), 2)


@pytest.mark.parametrize("slack", [1.0, 1.2])
def test_no_cluster_is_larger_than_its_room(slack: float) -> None:
    x = torch.cat([random(30, 2), 100 + random(5, 2, seed=1)])  # without limits most samples would share a cluster
    sizes = torch.bincount(constrained_kmeans([x], 5, slack, generator=torch.Generator().manual_seed(0)).labels, minlength=5)
    assert int(sizes.sum()) == 35
    assert int(sizes.max()) <= round(slack * 7 + 0.4)


def test_centroids_are_means_along_each_dimension() -> None:
    x = random(24, 3)
    labels, (centroids,) = constrained_kmeans([x], 3, generator=torch.Generator().manual_seed(0))
    for k in range(3):
        assert torch.allclose(centroids[k], x[labels == k].mean(0))
    assert not torch.allclose(centroids, centroids.mean(1, keepdim=True).expand_as(centroids))


def test_separate_groups_are_told_apart() -> None:
    x = torch.cat([random(8, 2, seed=k) * 0.01 + torch.tensor([10.0 * k, -5.0 * k]) for k in range(3)])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        first = torch.randperm(24, generator=generator)[:3]
        if len({int(i) // 8 for i in first}) == 3:  # one start in each group
            labels = constrained_kmeans([x], 3, generator=generator.manual_seed(seed)).labels
            assert [len(set(labels[8 * k : 8 * k + 8].tolist())) for k in range(3)] == [1, 1, 1]
            assert transported(x, 3, generator=generator.manual_seed(seed)).labels.tolist() == labels.tolist()
            return
    raise AssertionError("no start with one sample in each group")


def test_a_product_of_distances_hides_one_of_them_and_a_sum_does_not() -> None:
    """Sample 2 shares the first view of cluster 0 (distance 0 * 100) and is near cluster 1 in both (1 * 1)."""
    users, items = torch.tensor([[0.0], [1.0], [0.0]]), torch.tensor([[0.0], [9.0], [10.0]])

    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        if torch.randperm(3, generator=generator)[:2].tolist() == [0, 1]:
            break
    product, total = (
        constrained_kmeans([users, items], 2, 1.5, 1, how, torch.Generator().manual_seed(seed)).labels.tolist()
        for how in ("product", "sum")
    )
    assert product[2] == 0
    assert total[2] == 1


@pytest.mark.parametrize(("samples", "clusters"), [(12, 3), (20, 4)])
def test_plan_is_that_of_an_assignment_solver(samples: int, clusters: int) -> None:
    costs = random(samples, clusters).square()
    row, column = linear_sum_assignment(costs.repeat_interleave(samples // clusters, 1).numpy())
    plan = transport_plan(costs)
    assert (plan.argmax(1) == torch.from_numpy(column // (samples // clusters))).all()
    assert torch.allclose(plan.sum(1), torch.full((samples,), 1 / samples, dtype=torch.float64))
    assert torch.allclose(plan.sum(0), torch.full((clusters,), 1 / clusters, dtype=torch.float64))
    assert float((plan * costs).sum()) == pytest.approx(float(costs[row, column // (samples // clusters)].mean()))


def test_sizes_of_a_transport_differ_by_less_than_the_number_of_clusters() -> None:
    x = torch.cat([random(40, 2), 100 + random(3, 2, seed=1)])
    sizes = torch.bincount(transported(x, 4, generator=torch.Generator().manual_seed(0)).labels, minlength=4)
    assert int(sizes.sum()) == 43
    assert float((sizes - 43 / 4).abs().max()) < 4


def test_clusterings_are_functions_of_the_seed() -> None:
    x = random(20, 3)
    for cluster in (lambda seed: constrained_kmeans([x], 4, generator=seed), lambda seed: transported(x, 4, generator=seed)):
        labels = [cluster(torch.Generator().manual_seed(s)).labels.tolist() for s in (0, 0, 1)]
        assert labels[0] == labels[1] != labels[2]


def test_plans_of_sinkhorn_have_the_masses_and_become_exact_without_entropy() -> None:
    costs = random(12, 3).square()
    plan = sinkhorn(costs, 0.5)
    assert torch.allclose(plan.sum(1), torch.full((12,), 1 / 12, dtype=torch.float64), rtol=1e-5)
    assert torch.allclose(plan.sum(0), torch.full((3,), 1 / 3, dtype=torch.float64))
    exact = transport_plan(costs)
    distances = [float((sinkhorn(costs, entropy) - exact).abs().max()) for entropy in (1.0, 0.1, 0.02)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.01


def test_a_plan_of_sinkhorn_is_the_scaled_kernel() -> None:
    """By definition diag(a) exp(-costs / entropy) diag(b): its logarithm plus costs / entropy is a sum of one number a row and a column."""
    costs = random(6, 3, seed=2).square()
    scaled = sinkhorn(costs, 0.3).log() + costs / 0.3
    assert torch.allclose(scaled - scaled[:1] - scaled[:, :1] + scaled[0, 0], torch.zeros(6, 3, dtype=torch.float64), atol=1e-9)


def test_clusters_by_sinkhorn_are_those_by_exact_plans_where_groups_are_far_apart() -> None:
    x = torch.cat([random(8, 2, seed=k) * 0.01 + torch.tensor([10.0 * k, -5.0 * k]) for k in range(3)])
    exact, soft = (transported(x, 3, 10, torch.Generator().manual_seed(3), entropy).labels for entropy in (0.0, 0.02))
    assert torch.equal(exact, soft)

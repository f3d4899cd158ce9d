"""Divide-and-conquer k-means: forgetting is never having seen the rows, the cost of it, and clusters as good as k-means finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import grids
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.workflows.build_plan import plan

SMALL = {"clusters": 3, "width": 4}
RECORDS = grids.iris(classes=False)
GONE, REST = RECORDS[7:150:20], [r for i, r in enumerate(RECORDS) if i not in range(7, 150, 20)]


@pytest.mark.parametrize("height", [0, 1, 2])
def test_forgetting_is_never_having_seen_the_rows(height: int) -> None:
    settings = {**SMALL, "height": height}
    left = grids.fitted("kmeans_dc", "centroids", RECORDS, **settings)
    for row in GONE:
        left = grids.forgotten("kmeans_dc", left, [row], **settings)
    model, modality = grids.begun("centroids", RECORDS)
    never = loop.run(plan("kmeans_dc", settings), model, modality, {"retain": modality.rows("retain", REST[::-1])})
    assert left.store is not None
    assert never.store is not None
    assert left.store["buckets"] == never.store["buckets"]
    assert all(torch.equal(a, b) for a, b in zip(left.store["centroids"], never.store["centroids"], strict=True))
    assert left.store["rows"].ids == never.store["rows"].ids
    assert torch.equal(left.model.centroids, never.model.centroids)


def test_one_row_clusters_its_bucket_and_the_root() -> None:
    run = grids.fitted("kmeans_dc", "centroids", RECORDS, **SMALL)
    (whole,) = run.shown["buckets"]
    assert whole["points_read"] == 150 + 4 * 3
    (cost,) = grids.forgotten("kmeans_dc", run, GONE[:1], **SMALL).shown["buckets"]
    assert cost["clustered_anew"] == 1
    assert cost["points_read"] < 150 / 2


def test_the_loss_is_near_that_of_scikit_learn() -> None:
    run = grids.fitted("kmeans_dc", "centroids", RECORDS, **SMALL)
    (output,) = run.modality.forward(run.model, [run.modality.rows("x", RECORDS)])
    ours = float(output.loss.values.sum())
    best = KMeans(3, n_init=10, random_state=0).fit(grids.IRIS_X).inertia_
    one = ((grids.IRIS_X - grids.IRIS_X.mean(0)) ** 2).sum()
    assert best * 0.999 <= ours < best + 0.15 * (one - best)


def test_the_loss_is_the_squared_distance_from_the_nearest_centroid() -> None:
    run = grids.fitted("kmeans_dc", "centroids", RECORDS, **SMALL)
    (output,) = run.modality.forward(run.model, [run.modality.rows("x", RECORDS[:5])])
    distances = ((grids.IRIS_X[:5, None] - run.model.centroids.numpy()) ** 2).sum(2)
    assert output.loss.values.numpy() == pytest.approx(distances.min(1), rel=1e-4)


def test_centroids_left_over_are_unused() -> None:
    run = grids.fitted("kmeans_dc", "centroids", [{"a": 1.0}, {"a": 1.0}, {"a": 4.0}], clusters=3, height=0)
    assert run.model.used.tolist() == [True, True, False]
    assert np.isinf(run.model(torch.zeros(1, 1))[0, 2].item())


def test_what_cannot_be_forgotten_is_refused() -> None:
    run = grids.fitted("kmeans_dc", "centroids", RECORDS, **SMALL)
    assert run.store is not None
    assert run.store["guarantee"]["level"] == "E0"
    with pytest.raises(UserError, match="no row would be left in the store"):
        grids.forgotten("kmeans_dc", run, RECORDS, **SMALL)
    with pytest.raises(UserError, match="this method needs centroids of clusters"):
        grids.fitted("kmeans_dc", "forest", grids.iris(3), **SMALL)

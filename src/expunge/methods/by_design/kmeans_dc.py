"""Divide-and-conquer k-means: points are clustered in random buckets, and the centroids of buckets are clustered in turn.

A row is in one bucket alone. When it leaves, that bucket is clustered again, and those above it, which see a few centroids each.

Equation: a row is in a uniform random leaf of a tree of width w; a leaf sends up the k centroids of its points, by k-means++ and T rounds
  of Lloyd's iteration; a bucket above does the same with the centroids of its children, unweighted; those of the root are the model; to
  forget: the buckets from the row's leaf to the root are clustered again
Source: Ginart et al. 2019, Making AI forget you: data deletion in machine learning, arXiv 1907.05012
Needs: retain, to make the store; forget, to take rows out; the model size `centroids`
Cost: as k-means on all rows, at most; forgetting one row clusters n/w^h points, and w k centroids at each level above
Guarantee: E0, bit-exact: the centroids of all buckets equal those made from the rows left with the same seed; so requests may also be
  chosen by looking at the model
Differs: bucket and choices of a row are functions of its content, the place and the seed, where the authors draw anew on each deletion;
  over seeds the law is the same, and the store is that of a fresh training besides. A cluster without points keeps its centroid; of fewer
  different points than clusters, the centroids left over are unused. The width, 16, is n^0.3 for ten thousand rows (reconstructed)
Status: shown

The store holds the training rows themselves and is as confidential as they are.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from expunge.core.capabilities import require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.functional.divided_kmeans import Array, Bucket, leaf_of, redo
from expunge.methods.stores import check_known, check_width, guarantee, in_order, meant, seed_in, warn_of_copies
from expunge.modalities.table.capabilities import PlacesCentroids

Store = Mapping[str, Any]


@part
class KMeansDC(ByDesign):
    """Centroids from which rows are taken out."""

    clusters: int = hp(10, "k: centroids", ge=1)
    width: int = hp(16, "w: children of a bucket; more: cheaper to forget, further from k-means", ge=1)
    height: int = hp(1, "h: levels of buckets below the root; 0: plain k-means", ge=0, le=6)
    rounds: int = hp(10, "T: rounds of Lloyd's iteration in a bucket", ge=0)
    reads = frozenset({"retain"})
    requires = frozenset({PlacesCentroids})

    def prepare(self, model: torch.nn.Module, modality: Modality, seed: int) -> None:
        require(modality, PlacesCentroids).reshape(model, self.clusters)

    @property
    def leaves(self) -> int:
        """Buckets of the last level."""
        return self.width**self.height

    def fit(self, view: View) -> Store:
        rows = in_order(view.retain)
        x = require(view.modality, PlacesCentroids).points(rows)
        names = Rows(rows.name, rows.ids, {k: v for k, v in rows.columns.items() if k == "content"})
        promise = guarantee("E0", "the store was made on another machine, or with other versions of the packages, than the forgetting")
        return self._clustered({"seed": seed_in(view), "rows": names, "x": x, "guarantee": promise}, {}, range(self.leaves), view)

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        check_width(store["x"], require(view.modality, PlacesCentroids).points(view.sets["forget"]).shape[1])
        check_known([store["rows"]], view)
        leaving = meant(store["rows"], ids)
        warn_of_copies(leaving, view)
        kept = [i for i, leaves in enumerate(leaving) if not leaves]
        if not kept:
            raise UserError("no row would be left in the store: delete it, and keep the model that it began with")
        touched = {leaf_of(i, self.leaves, store["seed"]) for i, leaves in zip(store["rows"].ids, leaving, strict=True) if leaves}
        known = {(level, place): c.numpy() for (level, place), c in zip(store["buckets"], store["centroids"], strict=True)}
        return self._clustered({**store, "rows": store["rows"].select(kept), "x": store["x"][kept]}, known, touched, view)

    def weights(self, store: Store, view: View) -> Weights:
        root = store["centroids"][store["buckets"].index((0, 0))]
        centroids = torch.zeros(self.clusters, root.shape[1])
        centroids[: len(root)] = root.float()
        return {"centroids": centroids, "used": torch.arange(self.clusters) < len(root)}

    def _clustered(self, store: Mapping[str, Any], known: Mapping[Bucket, Array], touched: Collection[int], view: View) -> Store:
        """The store with the centroids of all buckets, where those above some leaves are not known."""
        leaves, x = np.array([leaf_of(i, self.leaves, store["seed"]) for i in store["rows"].ids]), store["x"].double().numpy()
        points = {leaf: x[leaves == leaf] for leaf in touched}
        centroids, read = redo(points, known, touched, self.clusters, self.rounds, store["seed"], (self.width, self.height))
        view.show("buckets", [{"leaves": self.leaves, "clustered_anew": len(touched), "points_read": read, "rows": len(x)}])
        buckets = sorted(centroids)
        return {**store, "buckets": buckets, "centroids": [torch.from_numpy(np.array(centroids[b])) for b in buckets]}


def plan() -> Plan:
    return Plan(KMeansDC())

"""The world of clusters: rows leave a set of centroids, of which only a bucket and what stands above it is clustered again.

The cost of a deletion is how many points are clustered, as a share of those of k-means on all rows; the loss is the mean squared distance
from the nearest centroid, as a share of that of k-means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import torch

from expunge.engine.run_state import RunState
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate
from studies.proofs.table_draws import Maker, leaving, scattered, without

ROWS, CLUSTERS, WIDTH, GONE = 2000, 5, 25, 10
METHOD = "kmeans_dc"


class ClusterUnit:
    """Points of a draw, and the choices of a clustering."""

    def __init__(self, draw: int, seed: int) -> None:
        self.records = scattered(draw, ROWS, CLUSTERS, WIDTH)
        self.gone = leaving(GONE, ROWS, 5 * draw + seed)
        self.maker = Maker("centroids", self.records, seed)
        self.rest = self.maker.rows("rest", without(self.records, self.gone))

    def distance(self, run: RunState) -> float:
        """The mean squared distance of the rows that are left from their nearest centroids."""
        with torch.no_grad():
            (output,) = run.modality.forward(run.model, [self.rest])
        return float(output.loss.values.double().mean())

    @cached_property
    def plain(self) -> float:
        """The distance for plain k-means on the rows that are left: the best of three starts."""
        settings = {"clusters": CLUSTERS, "height": 0}
        rest = without(self.records, self.gone)
        seeds = [Maker("centroids", self.records, self.maker.seed + 1000 * k) for k in range(3)]
        return min(self.distance(maker.fitted(METHOD, settings, rest)) for maker in seeds)

    @cached_property
    def spread(self) -> float:
        """The distance for a single centroid, as a share of k-means."""
        run = self.maker.fitted(METHOD, {"clusters": 1, "height": 0}, without(self.records, self.gone))
        return self.distance(run) / self.plain

    @property
    def original(self) -> Scores:
        return self.retrained

    @property
    def retrained(self) -> Scores:
        return {"loss": 1.0, "cost": 1.0}

    @property
    def random(self) -> Scores:
        return {"loss": self.spread}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The loss after all deletions, and the mean cost of one."""
        run, reads = self.maker.fitted(arm.method, settings, self.records), list[float]()
        for place in self.gone:
            run = self.maker.forgotten(arm.method, settings, run, [self.records[place]])
            reads.append(float(run.shown["buckets"][0]["points_read"]))
        return [{"loss": self.distance(run) / self.plain, "cost": fmean(reads) / len(self.rest)}]


@dataclass(frozen=True)
class Clusters:
    """Tables of points in clusters that touch."""

    name: str = "tables of clusters"
    model: str = "centroids"

    def unit(self, draw: int, seed: int) -> ClusterUnit:
        return ClusterUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """There must be something to cluster."""
        spread = fmean(u.spread for u in units)
        return [Gate("a single centroid has at least one and a half times the loss of k-means", spread, spread >= 1.5)]


ARMS: dict[str, Arm] = {METHOD: Arm(METHOD, METHOD, {"clusters": CLUSTERS, "width": 10})}  # n^0.3, the paper's width
CLAIMS: dict[str, tuple[Clusters, tuple[Claim, ...]]] = {
    METHOD: (
        Clusters(),
        (
            Claim(
                "a row leaves at less than half of the cost of clustering anew",
                "Ginart et al. 2019, the tables of amortized run times",
                "cost",
                ("retrained",),
                "lower",
                0.5,
            ),
            Claim(
                "after ten deletions its loss is at most a twentieth above that of k-means",
                "Ginart et al. 2019, the table of loss ratios",
                "loss",
                ("retrained",),
                "lower",
                0.0,
                margin=0.05,
            ),
        ),
    )
}

"""UltraRE: a model for each shard of similar users, of equal size by optimal transport, which answer together.

It simplifies RecEraser: transport finds shards that are balanced and near their centers at once, and the models' answers are averaged, so
that forgetting retrains the touched shards and nothing else. The models count alike, or as much as makes the rows the likeliest.

Equation: labels argmax_k T_nk of the plan T with masses 1/N of the samples and 1/k of the shards at the least sum of T |x - c_k|^2, c_k the
  mean of shard k, x the vectors of users in a model trained first, in turns; p(y|u,i) and scores are means over the shards' models, with
  shares a_k = 1/k, or learned: argmax_a sum over rows and labels of log sum_k a_k p_k(y|u,i)
Source: Li et al. 2023, UltraRE: enhancing RecEraser for recommendation unlearning via error decomposition (NeurIPS 2023)
Needs: retain, to make the store; forget, to take rows out
Cost: training on all rows twice, of which the first shapes the shards alone; a linear program for each round of the clustering, or
  Sinkhorn's iterations; forgetting one user trains 1/k of the rows
Guarantee: H: no weight has seen a row that was taken out, but the shards were chosen with them, and are kept
Differs: reconstructed: the paper's simpler combination of the shards is known by its abstract alone. Here it is the mean, as in the study
  CURE4Rec (arXiv 2408.14393), or a mean with learned shares, whose maximum is the only one; shards of equal size come out about alike. That
  study's transport ends after its iterations by mistake; here plans are exact, or converged with an entropy. A shard knows its own
  interactions alone, so that nothing of a forgotten one stays in its negatives or its graph; graph models answer over the graph of all
  rows. The first model is of the kind that is trained; epochs are fixed
Status: not shown

The store holds the training rows themselves: it is as confidential as they are.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from expunge.core.capabilities import Categorical, LooksUp
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.functional.balanced_partition import transported
from expunge.functional.mixture_shares import mixture_shares
from expunge.methods.clusters import KEPT, Similar
from expunge.methods.shards import Shards, voting
from expunge.methods.stores import alone, guarantee, in_order

Store = Mapping[str, Any]
BATCH = 1024  # rows in one forward pass of the models


@part
class UltraRE(ByDesign):
    """Models of shards that optimal transport made, which answer together."""

    shards: int = hp(10, "k: models, each of its own cluster of rows; more: cheaper to forget, less accurate", ge=1)
    rounds: int = hp(10, "plans of the clustering at most", ge=1)
    entropy: float = hp(
        0.0, "0: exact plans, by linear programming; else Sinkhorn's, with this weight of the entropy in units of the mean distance", ge=0
    )
    combine: Literal["mean", "learned"] = hp(
        "mean", "shards' models count alike, or by shares that make the rows the likeliest and are found anew whenever rows leave"
    )
    similar: Similar = Similar(by="first")
    train: Train = Train(epochs=50, lr=1e-3, batch_size=1024, optimizer="adam", schedule="constant", anchor="retain")
    reads = frozenset({"retain"})
    requires = frozenset({Categorical, LooksUp})

    def fit(self, view: View) -> Store:
        self._models.check("ultrare", fresh=True)
        rows, start = alone(in_order(view.retain), view), view.modality.fresh(view.model, seed_of(self.train.seed, "start"))

        def cluster(vectors: list[Tensor], generator: Generator) -> Tensor:
            return transported(torch.cat(vectors, 1), self.shards, self.rounds, generator, self.entropy).labels

        places = self.similar.places(rows, self.shards, cluster, self.train, start, view)
        shards = self._models.fit(rows, places, start, view)
        return {"start": start, "shards": shards, "shares": self._shares(shards, view), "guarantee": guarantee("H", KEPT)}

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        shards = self._models.forget(store["shards"], ids, store["start"], view)
        return {**store, "shards": shards, "shares": self._shares(shards, view)}

    def weights(self, store: Store, view: View) -> Sequence[Weights]:
        return voting(store["shards"])

    def _shares(self, shards: Sequence[Mapping[str, Any]], view: View) -> list[float]:
        """What each model that has rows counts in the mean of all; nothing where they count alike."""
        filled = [shard for shard in shards if len(shard["rows"])]
        if self.combine == "mean" or len(filled) < 2:
            return []
        rows = in_order(reduce(Rows.concat, (shard["rows"] for shard in filled)))
        batches = [rows.select(range(i, min(i + BATCH, len(rows)))) for i in range(0, len(rows), BATCH)]
        logs = [torch.cat([view.under(weights, batch).target_logp.values.cpu() for batch in batches]) for weights in voting(filled)]
        shares = mixture_shares(torch.stack(logs)).tolist()
        view.show("shares", [{"model": k, "share": share} for k, share in enumerate(shares)])
        return shares

    @property
    def _models(self) -> Shards:
        return Shards(self.shards, self.train)


def plan() -> Plan:
    return Plan(UltraRE())

"""UltraRE: a model for each shard of similar users, of equal size by optimal transport, which answer together.

It simplifies RecEraser: transport finds shards that are balanced and near their centers at once, and the models' answers are averaged, so
that forgetting retrains the touched shards and nothing else. It works for every recommender.

Equation: labels argmax_k T_nk of the plan T with masses 1/N of the samples and 1/k of the shards at the least sum of T |x - c_k|^2, c_k the
  mean of shard k, x the vectors of users in a model trained first, in turns; p(y|u,i) and scores are means over the shards' models
Source: Li et al. 2023, UltraRE: enhancing RecEraser for recommendation unlearning via error decomposition (NeurIPS 2023)
Needs: retain, to make the store; forget, to take rows out
Cost: training on all rows twice, of which the first shapes the shards alone; a linear program for each round of the clustering, or
  Sinkhorn's iterations; forgetting one user trains 1/k of the rows
Guarantee: H: no weight has seen a row that was taken out, but the shards were chosen with them, and are kept
Differs: reconstructed: the simpler combination of the shards is the mean, as in the study CURE4Rec (arXiv 2408.14393), whose transport ends
  after its iterations by mistake; here plans are exact, or converged with an entropy. A shard knows its own interactions alone, so that
  nothing of a forgotten one stays in its negatives or its graph; graph models answer over the graph of all rows. The first model is of the
  kind that is trained; epochs are fixed
Status: faithful

The store holds the training rows themselves: it is as confidential as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from expunge.core.capabilities import Categorical, LooksUp
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.view import View
from expunge.functional.balanced_partition import transported
from expunge.methods.clusters import KEPT, Similar
from expunge.methods.shards import Shards, voting
from expunge.methods.stores import alone, guarantee, in_order

Store = Mapping[str, Any]


@part
class UltraRE(ByDesign):
    """Models of shards that optimal transport made, which answer together."""

    shards: int = hp(10, "k: models, each of its own cluster of rows; more: cheaper to forget, less accurate", ge=1)
    rounds: int = hp(10, "plans of the clustering at most", ge=1)
    entropy: float = hp(
        0.0, "0: exact plans, by linear programming; else Sinkhorn's, with this weight of the entropy in units of the mean distance", ge=0
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
        return {"start": start, "shards": self._models.fit(rows, places, start, view), "guarantee": guarantee("H", KEPT)}

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        return {**store, "shards": self._models.forget(store["shards"], ids, store["start"], view)}

    def weights(self, store: Store, view: View) -> Sequence[Weights]:
        return voting(store["shards"])

    @property
    def _models(self) -> Shards:
        return Shards(self.shards, self.train)


def plan() -> Plan:
    return Plan(UltraRE())

"""RecEraser: a model for each shard of similar interactions, whose vectors are joined by attention into one model.

Random shards break up what users learn from each other; balanced clusters keep similar interactions together. Forgetting retrains the
shards that hold the rows, and the attention, which is small.

Equation: shards are balanced clusters (capacity `room` n/k) of the vectors that rows look up in a model trained first; pairs are near a
  cluster by |p_u - c_u|^2 |q_i - c_i|^2; of shard s with tables p^s, q^s: h_u^s = W_s p_u^s + b_s, a_u^s = softmax_s(v' relu(A h_u^s + c)),
  p_u = sum_s a_u^s h_u^s, and likewise of items with A, c and v of their own and the same W_s, b_s; the model has the tables p and q
Source: Chen et al. 2022, Recommendation unlearning, arXiv 2201.06820; code: chenchongthu/Recommendation-Unlearning
Needs: retain, to make the store; forget, to take rows out; a model with tables of vectors
Cost: training on all rows twice, of which the first shapes the clusters alone, and `aggregation_epochs` over all rows for the attention;
  forgetting one row trains 1/k of the rows and the attention
Guarantee: H: no weight has seen a row that was taken out, but the clusters have, and they are kept
Differs: published for models that are one table of users and one of items (matrix factorization, LightGCN); of others, all tables are
  joined, and further weights begin as the mean of the shards' and train along with the attention. The clusters come from a model of the
  kind that is trained, not always from WMF; centroids are means along each dimension (the code takes one number); a shard knows its own
  interactions alone, so that nothing of a forgotten one stays in its negatives or its graph, while theirs avoid all training items of a
  user; W_s begins as the identity; LightGCN gets its dropout before the graph spreads the joined vectors, theirs after it; epochs are
  fixed, while they stop by the recall of the test set; `ridge` is theirs for BPR, which use none elsewhere, and the L2 term of the shards
  is the optimizer's weight decay
Status: shown

The store holds the training rows themselves: it is as confidential as they are.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, LooksUp, require
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign, Objective
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.core.view import Step, View
from expunge.engine.adapters import base_of
from expunge.engine.weights import put, weights_of
from expunge.functional.balanced_partition import constrained_kmeans
from expunge.methods.attentive import AttentiveTable, Transfer
from expunge.methods.clusters import KEPT, Similar
from expunge.methods.shards import Shards, voting
from expunge.methods.stores import alone, guarantee, in_order
from expunge.methods.terms import NLL

Store = Mapping[str, Any]


@part
class Ridge(Objective):
    """Half the squared length of what maps the shards' vectors into one space."""

    reads = frozenset({"retain"})
    role = "transfer"

    def loss(self, step: Step) -> Tensor:
        share = len(step.retain) / step.count(step.retain, "rows")  # of this micro-batch, so that the penalty counts once
        lengths = [p.square().sum() for n, p in step.model.named_parameters() if ".transfer." in n]
        return share * torch.stack(lengths).sum() / 2


@part
class RecEraser(ByDesign):
    """Models of balanced clusters, joined by attention."""

    shards: int = hp(10, "k: models, each of its own cluster of rows; more: cheaper to forget, less accurate", ge=1)
    room: float = hp(1.2, "rows (or users, or items) that a shard takes at most, as a multiple of its share", ge=1)
    rounds: int = hp(50, "assignments of the clustering at most", ge=1)
    distance: Literal["product", "sum"] = hp(
        "product", "distances of a row's vectors from a cluster become one by their product, as published, or their sum"
    )
    aggregation_epochs: int = hp(50, "epochs of the attention", ge=0)
    dropout: float = hp(0.3, "share of a joined user vector that is dropped while the attention trains", ge=0, lt=1)
    ridge: float = hp(1e-5, "weight of half the squared length of all W_s and b_s; published with BPR alone, 0 elsewhere", ge=0)
    similar: Similar = Similar()
    train: Train = Train(epochs=50, lr=0.05, batch_size=256, optimizer="adagrad", schedule="constant", anchor="retain")
    reads = frozenset({"retain"})
    requires = frozenset({Categorical, LooksUp})

    def fit(self, view: View) -> Store:
        self._models.check("receraser", fresh=True)
        rows, start = alone(in_order(view.retain), view), view.modality.fresh(view.model, seed_of(self.train.seed, "start"))

        def cluster(vectors: list[Tensor], generator: torch.Generator) -> Tensor:
            return constrained_kmeans(vectors, self.shards, self.room, self.rounds, self.distance, generator).labels

        places = self.similar.places(rows, self.shards, cluster, self.train, start, view)
        shards = self._models.fit(rows, places, start, view)
        return {"start": start, "shards": shards, "joined": self._joined(shards, view), "guarantee": guarantee("H", KEPT)}

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        shards = self._models.forget(store["shards"], ids, store["start"], view)
        return {**store, "shards": shards, "joined": self._joined(shards, view)}

    def weights(self, store: Store, view: View) -> Weights:
        return dict(store["joined"])

    @property
    def _models(self) -> Shards:
        return Shards(self.shards, self.train)

    def _joined(self, shards: list[dict[str, Any]], view: View) -> Weights:
        """The weights of the joined model, after the attention was trained on all rows."""
        members = voting(shards)
        rows = in_order(reduce(Rows.concat, (shard["rows"] for shard in shards if len(shard["rows"]))))
        model, tables = copy.deepcopy(view.model), tables_of(view, rows)
        put(model, {n: torch.stack([w[n] for w in members]).mean(0) for n in members[0] if members[0][n].is_floating_point()})
        transfers = dict[tuple[int, int], Transfer]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.train.seed, "attention"))
            for kind, names in enumerate(tables):
                for k, name in enumerate(names):
                    stacked = torch.stack([weights[name] for weights in members])
                    shared = (k, stacked.shape[-1])  # by the k-th tables of all kinds, if they are of one width
                    transfer = transfers.setdefault(shared, Transfer(len(members), stacked.shape[-1]).to(stacked))
                    joined = AttentiveTable(stacked, transfer, 0.0 if kind else self.dropout).to(stacked)
                    base_of(model).set_submodule(owner_of(name), joined)
        train = replace(self.train, epochs=self.aggregation_epochs, weight_decay=0.0)
        objective = NLL("retain") + self.ridge * Ridge() if self.ridge else NLL("retain")
        done = view.run(Plan(objective, train=train), {"retain": rows}, key="attention", model=model, alone=True)
        ended, names = base_of(done.model), [name for names in tables for name in names]
        others = {n: t for n, t in weights_of(ended).items() if not any(n.startswith(f"{owner_of(name)}.") for name in names)}
        return {**others, **{name: ended.get_submodule(owner_of(name)).weight.detach().clone() for name in names}}


def tables_of(view: View, rows: Rows) -> list[tuple[str, ...]]:
    """The names of the weights that are tables of vectors, by kind."""
    return [names for _, names in require(view.modality, LooksUp).lookups(view.model, rows)]


def owner_of(name: str) -> str:
    """The path of the module that has a weight."""
    return name.rpartition(".")[0]


def plan() -> Plan:
    return Plan(RecEraser())

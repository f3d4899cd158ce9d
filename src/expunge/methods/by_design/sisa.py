"""SISA training: a model for each shard of the rows, which answer together; forgetting retrains the touched shards from a checkpoint.

A row can only be in the model of its own shard, and only from its own slice on. So taking it out is as if it had never been there, at
the cost of a part of one shard's training.

Equation: shard and slice of a row are hashes of its content; theta_k,r = train(theta_k,r-1, slices 1..r of shard k, e_r epochs), e_r =
  round(r e') - round((r-1) e'), e' = 2e/(R+1), so that e N/S rows are passed in a shard, up to rounding; p(y|x) = (1/S) sum_k p_k(y|x),
  or the majority of argmax p_k; to forget: with r* the lowest slice of shard k that holds a row, go on from theta_k,r*-1 without the rows
Source: Bourtoule et al. 2021, Machine Unlearning, arXiv 1912.03817
Needs: retain, to make the store; forget, to take rows out; S R checkpoints of the weights, which the store keeps with the rows
Cost: training passes as often over the rows as without shards; forgetting one row passes over 1/S of the rows, a third of which slices
  spare on average; S forward passes for an answer
Guarantee: E0, bit-exact, on a CPU; E1 on other devices, whose sums depend on their order
Differs: the authors' code cuts shards and slices by the place of a row and draws other initial weights for each shard; here both are
  hashes of the content and every shard starts from the given weights, since only then a retrained store is the same store. So shards and
  slices have about, not exactly, equal sizes; a shard without rows has no vote. The authors' key of a checkpoint leaves out the remainder
  of the last slice, so that rows there are not forgotten; here slices have no remainder. As in their code a checkpoint holds the weights,
  and the optimizer and its schedule begin anew with each slice; so does an adapter (`--lora`), which is merged at the end of the slice
Status: shown

In recommenders a shard knows its own interactions alone, so that neither its graph nor its negatives hold anything of the others; items are
ranked by the mean of the models' scores, over the graph of all rows. The store holds the training rows themselves: it is as confidential as
they are. A request that is chosen by looking at the models (an adaptive one) is covered by E0, but not by E1, unless the published models
are private.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.request import content
from expunge.core.view import View
from expunge.engine.committee import Answer
from expunge.engine.run_state import device_of
from expunge.engine.weights import weights_of
from expunge.methods.shards import SETTINGS, Shards, voting
from expunge.methods.stores import guarantee, in_order

Store = Mapping[str, Any]


@part
class SISA(ByDesign):
    """Sharded, isolated, sliced and aggregated training."""

    shards: int = hp(5, "S: models, each of its own part of the rows; more: cheaper to forget, less accurate", ge=1)
    slices: int = hp(5, "R: checkpoints of a shard; more: cheaper to forget, a larger store", ge=1)
    answer: Answer = hp("mean", "mean of the probabilities, or majority of the votes (for classifiers)")
    train: Train = Train(epochs=10, lr=1e-3, batch_size=32, anchor="retain")
    reads = frozenset({"retain"})
    requires = frozenset({Categorical})

    def shard_of(self, row_id: str) -> int:
        """Shard of a row, from 0: a function of its content and the seed, so that no other row matters."""
        return seed_of(self.train.seed, "shard", content(row_id)) % self.shards

    def fit(self, view: View) -> Store:
        self._models.check("sisa")
        rows, start = in_order(view.retain), weights_of(view.model)
        shards = self._models.fit(rows, [self.shard_of(i) for i in rows.ids], start, view)
        level = "E0" if device_of(view.model).type == "cpu" else "E1"
        adaptive = () if level == "E0" else ("the rows were chosen by looking at the model",)
        return {"start": start, "answer": self.answer, "shards": shards, "guarantee": guarantee(level, SETTINGS, *adaptive)}

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        return {**store, "shards": self._models.forget(store["shards"], ids, store["start"], view)}

    def weights(self, store: Store, view: View) -> Sequence[Weights]:
        return voting(store["shards"])

    @property
    def _models(self) -> Shards:
        return Shards(self.shards, self.train, self.slices)


def plan() -> Plan:
    return Plan(SISA())

"""DaRE forests: random forests that rows leave at the cost of the few nodes in which they mattered.

Each node keeps the counts that its choice rests on. When a row leaves, counts go down along its path through each tree, and only where
they now speak for another split is the part below grown again.

Equation: a node above depth `topd` asks for a uniform attribute and a uniform threshold between its least and largest value; one below
  samples p~ attributes and k valid thresholds of each, a < b neighboring values unless all their rows are of one class, and splits x <= a
  where sum_sides n_side (1 - sum_c p_c^2) is least; p(y|x) is the mean of the leaves' shares; to forget: counts go down, a sample is filled
  up where a threshold became invalid, and children are grown again where the best split is another one
Source: Brophy and Lowd 2021, Machine unlearning for random forests, arXiv 2009.05567
Needs: retain, to make the store; forget, to take rows out; the model size `forest`
Cost: training sorts p~ columns at every node; forgetting a row updates the counts along its paths, at most `depth` nodes a tree, compares
  the values of p~ columns at these nodes, and grows what changed; the store keeps about as many numbers as there are sampled thresholds
Guarantee: E0, bit-exact: the forest and all its statistics equal those grown from the rows left with the same seed; so requests may also be
  chosen by looking at the forest
Differs: the samples of a node are those with the smallest hashes of the place, so that they are uniform over seeds as published, and a
  forest is a function of its rows, which is more than the paper's equality in distribution. The authors' code keeps the threshold of a
  value that vanished and counts an empty side as valid; here neighbors are found again. Any number of classes; no bootstrap, as published
Status: shown

The store holds the training rows themselves and is as confidential as they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.capabilities import require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.functional.packed_trees import complete, packed, unpacked
from expunge.functional.random_trees import Array, Criterion, Tree, TreeGrowth, grow
from expunge.functional.tree_removal import Effort, remove
from expunge.methods.stores import check_known, check_width, guarantee, in_order, meant, seed_in, warn_of_copies
from expunge.modalities.table.capabilities import GrowsTrees

Store = Mapping[str, Any]


@part
class DaRE(ByDesign):
    """A forest from which rows are taken out."""

    trees: int = hp(100, "T: trees of the forest", ge=1)
    depth: int = hp(10, "of the deepest leaves", ge=1, le=16)
    topd: int = hp(0, "levels from the root whose nodes ask at random; more: cheaper to forget, less accurate", ge=0)
    thresholds: int = hp(25, "k: thresholds that a node samples of an attribute; more: dearer to forget", ge=1)
    attributes: int = hp(0, "p~: attributes that a node samples; 0: the root of their number", ge=0)
    criterion: Criterion = hp("gini", "what the best split makes least: gini or entropy")
    reads = frozenset({"retain"})
    requires = frozenset({GrowsTrees})

    def prepare(self, model: torch.nn.Module, modality: Modality, seed: int) -> None:
        require(modality, GrowsTrees).reshape(model, self.trees, self.depth)

    def fit(self, view: View) -> Store:
        modality = require(view.modality, GrowsTrees)
        rows = in_order(view.retain)
        x, y = modality.points(rows), modality.targets(rows)
        how, seed = self._growth(view), seed_in(view)
        trees = [Tree(s) for s in self._seeds(seed)]
        points, classes = x.numpy(), y.numpy()
        read = [grow(tree, points, classes, np.arange(len(rows)), how) for tree in trees]
        view.show("trees", [{"trees": len(trees), "nodes": sum(len(t.nodes) for t in trees), "rows_read": sum(read)}])
        names = Rows(rows.name, rows.ids, {k: v for k, v in rows.columns.items() if k == "content"})
        promise = guarantee("E0", "the store was made by other code than the forgetting")
        return {"seed": seed, "rows": names, "x": x, "y": y, "trees": _tensors(packed(trees, how.classes)), "guarantee": promise}

    def forget(self, store: Store, ids: frozenset[str], view: View) -> Store:
        how = self._growth(view)
        check_width(store["x"], _width_of(view))
        check_known([store["rows"]], view)
        leaving = np.array(meant(store["rows"], ids))
        warn_of_copies(leaving.tolist(), view)
        kept, gone = np.flatnonzero(~leaving), np.flatnonzero(leaving)
        if not len(kept):
            raise UserError("no row would be left in the store: delete it, and keep the model that it began with")
        trees, effort = unpacked(_arrays(store["trees"]), self._seeds(store["seed"])), Effort()
        points, classes = store["x"].numpy(), store["y"].numpy()
        for tree in trees:
            remove(tree, points, classes, kept, gone, how, effort)
        view.show("trees", [{"trees": len(trees), "rows": len(gone), **vars(effort)}])
        names, places = store["rows"].select(kept.tolist()), torch.from_numpy(kept)
        left = {"rows": names, "x": store["x"][places], "y": store["y"][places]}
        return {**store, **left, "trees": _tensors(packed(trees, how.classes))}

    def weights(self, store: Store, view: View) -> Weights:
        trees = unpacked(_arrays(store["trees"]), self._seeds(store["seed"]))
        return _tensors(complete(trees, self.depth, self._growth(view).classes))

    def _growth(self, view: View) -> TreeGrowth:
        classes = len(require(view.modality, GrowsTrees).refusals())
        return TreeGrowth(classes, self.depth, self.topd, self.attributes, self.thresholds, self.criterion)

    def _seeds(self, seed: int) -> list[int]:
        """The seeds of the trees' choices."""
        return [seed_of(seed, "tree", t) for t in range(self.trees)]


def _width_of(view: View) -> int:
    """How many inputs the model reads."""
    return require(view.modality, GrowsTrees).points(view.sets["forget"]).shape[1]


def _tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in arrays.items()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {n: t.cpu().numpy() for n, t in tensors.items()}


def plan() -> Plan:
    return Plan(DaRE())

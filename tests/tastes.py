"""A small world of two tastes for methods of recommenders: the original model, the one that never had the rows to forget, and recalls."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import recommenders
from expunge import catalog
from expunge.benchmarks.common.interactions import described, held_out
from expunge.benchmarks.synthetic.tastes import interactions
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.engine.weights import put, weights_of
from expunge.methods.terms import NLL
from expunge.modalities.ranking.modality import Ranking
from expunge.workflows import build_plan

Records = list[Mapping[str, Any]]
TRAINING = {"epochs": 40, "batch_size": 256, "lr": 2e-2, "weight_decay": 1e-3}  # to where further training changes little
GONE = {f"user{b}{'ab'[b]}0{u}" for b in (0, 1) for u in (0, 1)}  # four of eighty users


@dataclass(frozen=True, eq=False)
class Tasted:
    """Models by name (original, retrained) with the modality, rows and records by set (forget, retain, test)."""

    shell: nn.Module
    weights: Mapping[str, Mapping[str, Tensor]]
    modality: Ranking
    sets: Sets
    records: Mapping[str, Records]

    def model(self, name: str = "original") -> nn.Module:
        model = copy.deepcopy(self.shell)
        put(model, self.weights[name])
        if name == "retrained":
            copy.deepcopy(self.modality).remove_rows(model, self.sets["forget"])
        return model.eval()

    def unlearned(self, method: str, **hyperparameters: Any) -> tuple[nn.Module, RunState]:
        """The original after a method, with all that a request takes out of the training interactions taken out."""
        model, modality = self.model(), copy.deepcopy(self.modality)
        modality.remove_rows(model, self.sets["forget"])
        run = loop.run(build_plan.plan(method, hyperparameters), model, modality, {n: self.sets[n] for n in ("forget", "retain")})
        return model.eval(), run

    def recall(self, model: nn.Module, name: str, k: int = 10) -> float:
        """Recall at k of a set, a mean over users; candidates are all items that no retain row of the user has.

        Items of one score share the mean of their places, so that a model without an opinion recommends none of them.
        """
        with torch.no_grad():
            scores = model.catalog(torch.arange(len(self.modality.vocabulary.users)))
        retain = set(zip(self.sets["retain"]["user"], self.sets["retain"]["item"], strict=True))
        wanted: dict[int, set[int]] = {}
        for user, item in zip(self.sets[name]["user"], self.sets[name]["item"], strict=True):
            wanted.setdefault(user, set()).add(item)
        shares = []
        for user, items in wanted.items():
            candidates = scores[user, [i for i in range(scores.shape[1]) if (user, i) not in retain or i in items]]
            places = [int((candidates > s).sum()) + (int((candidates == s).sum()) - 1) // 2 for s in scores[user, sorted(items)]]
            shares.append(sum(place < k for place in places) / len(places))
        return sum(shares) / len(shares)


def tiny(name: str, steps: int = 30, **changes: Any) -> tuple[nn.Module, Ranking, Sets]:
    """A model of sixteen users and twenty items after a few steps, in float64. changes: of the modality."""
    forget, retain, _ = recommenders.records()
    model, modality = recommenders.built(name)
    modality = replace(modality, **changes)
    sets = {"forget": modality.rows("forget", forget), "retain": modality.rows("retain", retain)}
    both = modality.rows("retain", [*forget, *retain])
    train = Train(epochs=0, steps=steps, lr=3e-2, batch_size=64, anchor="retain", optimizer="adam")
    if steps:
        loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": both})
    return model.double().eval(), modality, sets


@functools.cache
def world(name: str = "bpr_mf", split: str = "user") -> Tasted:
    """Eighty users and eighty items. split: user: forget all rows of four users; item: all rows with four items."""
    tastes = interactions(seed=5, blocks=2, users=40, items=40, each=20)
    full, unseen = held_out(tastes.records, 4)
    full = described(full, tastes.features)
    items = {r["item"] for r in full if r["item"][-2:] in ("03", "17")}
    gone = (lambda r: r["user"] in GONE) if split == "user" else (lambda r: r["item"] in items)
    records = {"forget": [r for r in full if gone(r)], "retain": [r for r in full if not gone(r)]}
    records["test"] = [r for r in unseen if not gone(r)]
    module = catalog.load(name, "models")
    size = f"{name}-nano"
    shell, modality = module.start(size, full, vocabulary=unseen)
    fresh, settings = weights_of(shell), {**module.TRAINING[size], **TRAINING}
    weights = {}
    for which, rows in (("original", full), ("retrained", records["retain"])):
        model, own = module.start(size, rows, vocabulary=[*full, *unseen])
        put(model, fresh)
        plan = Plan(NLL("retain"), train=Train(anchor="retain", **settings))
        loop.run((plan,), model, own, {"retain": own.rows("retain", rows)})
        weights[which] = weights_of(model)
    sets = {n: modality.rows(n, r) for n, r in records.items()}
    return Tasted(shell, weights, modality, sets, records)

"""Shards of similar rows and about equal size: rows are placed by the vectors that they look up in tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Generator, Tensor

from expunge.core.capabilities import LooksUp, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Weights
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine.adapters import base_of
from expunge.methods.terms import NLL

Cluster = Callable[[list[Tensor], Generator], Tensor]  # vectors of samples, by kind (samples, width) -> the cluster of each, (samples,)
KEPT = "the shards of the rows that remain were chosen together with the rows that leave, and stay as they are"


@part
class Similar:
    """Divides rows among shards by the vectors that they look up."""

    by: Literal["all", "first", "last"] = hp(
        "all",
        "what is clustered: rows by all vectors that they look up (in recommenders pairs, InBP), or the first kind (users, UBP) or the last"
        " one (items, IBP), whose rows stay together",
    )
    vectors: Literal["own", "given"] = hp(
        "own", "vectors of a model that is trained on all rows first, or those of the given model; no shard begins with them"
    )
    pretrain_epochs: int = hp(0, "epochs of the model that is trained first; 0: as many as those of a shard", ge=0)

    def places(self, rows: Rows, shards: int, cluster: Cluster, train: Train, start: Weights, view: View) -> list[int]:
        """The shard of each row, from 0.

        Args:
            shards: how many there are.
            cluster: how vectors are divided.
            train: how a shard is trained.
            start: weights that training begins with.

        Raises:
            UserError: for fewer rows, users or items than shards.
        """
        views, of_row = self._samples(rows, train, start, view)
        if (samples := len(views[0])) < shards:
            raise UserError(f"{samples} different vectors make at most {samples} shards: give --shards {samples} or fewer")
        generator = torch.Generator().manual_seed(seed_of(train.seed, "clusters"))
        places: list[int] = cluster(views, generator)[of_row].tolist()
        return places

    def _samples(self, rows: Rows, train: Train, start: Weights, view: View) -> tuple[list[Tensor], Tensor]:
        """What is clustered, vectors by kind (samples, width), and the sample of each row, (rows,)."""
        model, modality = view.model, view.modality
        if self.vectors == "own":
            plan = Plan(NLL("retain"), train=replace(train, epochs=self.pretrain_epochs or train.epochs))
            done = view.run(plan, {"retain": rows}, start, key="vectors", alone=True)
            model, modality = done.model, done.modality
        lookups = require(modality, LooksUp).lookups(model, rows)
        params = {name: p.detach().cpu() for name, p in base_of(model).named_parameters()}
        tables = [(places.cpu(), torch.cat([params[name] for name in names], 1)) for places, names in lookups]
        if self.by == "all":
            return [table[places] for places, table in tables], torch.arange(len(rows))
        places, table = tables[0 if self.by == "first" else -1]
        different, of_row = places.unique(return_inverse=True)
        return [table[different]], of_row

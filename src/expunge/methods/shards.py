"""What methods share that train a model for each shard of the rows, slice by slice, and forget by training on from a checkpoint.

A method says which shard a row is in; slices are hashes of the rows, so that no other row matters. Of rows that a modality holds beside the
weights (edges of a graph, interactions that negatives avoid), a shard has its own alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from expunge.core.errors import UserError
from expunge.core.modality import Weights
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.request import content
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine.weights import weights_of
from expunge.methods.stores import alone, check_known, meant
from expunge.methods.terms import NLL

Shard = dict[str, Any]  # its `rows`, and its `checkpoints`: weights after each slice
SETTINGS = "the store was made on another device, or with other versions of the packages, than the forgetting"


def epochs_of(epochs: int, slices: int, r: int) -> int:
    """Epochs of the r-th of R slices, from 1: the increase of e' r = 2 e r / (R + 1), rounded, in whole numbers."""

    def until(r: int) -> int:
        return (4 * epochs * r + slices + 1) // (2 * (slices + 1))

    return until(r) - until(r - 1)


@dataclass(frozen=True)
class Shards:
    """Models of parts of the rows.

    Args:
        count: how many there are.
        train: how one is trained.
        slices: checkpoints of a shard.
    """

    count: int
    train: Train
    slices: int = 1

    def check(self, method: str, fresh: bool = False) -> None:
        """Refuse settings that do not fit slices. fresh: models begin with random weights. Raises: UserError."""
        if fresh and self.train.lora:
            raise UserError(f"{method} trains models from random weights, which are nothing to adapt, so leave --lora out")
        if self.train.steps:
            raise UserError(f"{method} divides epochs among its slices: give --epochs instead of --steps")
        if not epochs_of(self.train.epochs, self.slices, self.slices):
            raise UserError(
                f"--epochs {self.train.epochs} in {self.slices} slices leave none for the last slice, whose rows would not be learned: "
                "give more --epochs or fewer --slices"
            )

    def slice_of(self, row_id: str) -> int:
        """The slice of a row, from 1: a function of its content and the seed."""
        return seed_of(self.train.seed, "slice", content(row_id)) % self.slices + 1

    def fit(self, rows: Rows, places: Sequence[int], start: Weights, view: View) -> list[Shard]:
        """Train the model of every shard.

        Args:
            rows: all rows, as `stores.in_order` gives them.
            places: the shard of each row, from 0, (rows,).
            start: weights that every shard begins with.
        """
        shards, costs = [], []
        for k in range(self.count):
            of_shard = rows.select([i for i, shard in enumerate(places) if shard == k])
            shard, cost = self._trained(view, k, of_shard, start, [])
            shards.append(shard)
            costs.append(cost)
        view.show("shards", costs)
        return shards

    def forget(self, shards: Sequence[Shard], ids: frozenset[str], start: Weights, view: View) -> list[Shard]:
        """The shards without some rows: those that held one are trained on from their last checkpoint before it.

        Raises:
            UserError: if no shard holds any of the rows.
        """
        check_known([shard["rows"] for shard in shards], view)
        left, costs = [], []
        for k, shard in enumerate(shards):
            rows: Rows = shard["rows"]
            leaving = meant(rows, ids)
            if any(leaving):
                lowest = min(self.slice_of(i) for i, leaves in zip(rows.ids, leaving, strict=True) if leaves)
                kept = rows.select([i for i, leaves in enumerate(leaving) if not leaves])
                shard, cost = self._trained(view, k, kept, start, shard["checkpoints"][: lowest - 1])
                costs.append(cost)
            left.append(shard)
        view.show("shards", costs)
        return left

    def _trained(
        self, view: View, shard: int, rows: Rows, start: Weights, checkpoints: Sequence[Weights]
    ) -> tuple[Shard, dict[str, float]]:
        """A shard after training on from the last of its checkpoints, and what that cost."""
        rows, checkpoints, steps, first = alone(rows, view), list(checkpoints), 0, len(checkpoints) + 1
        slices = [self.slice_of(i) for i in rows.ids]
        for r in range(first, self.slices + 1):
            weights = checkpoints[-1] if checkpoints else start
            known = rows.select([i for i, own in enumerate(slices) if own <= r])
            if len(known) and (epochs := epochs_of(self.train.epochs, self.slices, r)):
                plan = Plan(NLL("retain"), train=replace(self.train, epochs=epochs))
                done = view.run(plan, {"retain": known}, weights, key=f"{shard}/{r}", alone=True)
                weights, steps = weights_of(done.model), steps + done.done
            checkpoints.append(weights)
        return {"rows": rows, "checkpoints": checkpoints}, {"shard": shard, "first_slice": first, "rows": len(rows), "steps": steps}


def voting(shards: Sequence[Shard]) -> list[Weights]:
    """The weights of every shard that has rows. Raises: UserError if none has."""
    weights = [shard["checkpoints"][-1] for shard in shards if len(shard["rows"])]
    if not weights:
        raise UserError("no row would be left in the store: delete it, and keep the model that it began with")
    return weights

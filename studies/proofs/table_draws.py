"""Tables drawn from a seed, and runs of by-design methods on them: a store is made, and rows are taken out of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import RunState
from expunge.engine.weights import tensors_of
from expunge.modalities.table.columns import table_rows
from expunge.workflows import build_plan
from expunge.workflows.train import start

CLASSES = 3
Records = Sequence[Mapping[str, Any]]


def classified(draw: int, train: int, test: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, and unseen ones, of three classes with 20 inputs, 12 of which tell something."""
    from sklearn.datasets import make_classification

    x, y = make_classification(train + test, 20, n_informative=8, n_redundant=4, n_classes=CLASSES, class_sep=1.5, random_state=draw)
    records = [dict(r) for r in table_rows(x, y)]
    return records[:train], records[train:]


def scattered(draw: int, rows: int, clusters: int, width: int) -> list[dict[str, Any]]:
    """Points around as many centers, with clusters that touch."""
    from sklearn.datasets import make_blobs

    x, _ = make_blobs(rows, width, centers=clusters, cluster_std=4.0, random_state=draw)
    return [dict(r) for r in table_rows(x)]


def leaving(count: int, rows: int, seed: int) -> list[int]:
    """Places of rows to take out, of so many."""
    return random.Random(f"leaving {seed}").sample(range(rows), count)


def without(records: Records, places: Sequence[int]) -> list[Mapping[str, Any]]:
    """The other records."""
    gone = set(places)
    return [r for i, r in enumerate(records) if i not in gone]


class Maker:
    """Trains models of a built-in size from one start, and takes rows out of their stores.

    Args:
        size: of the model.
        records: which the model reads; they say its columns and classes.
        seed: of the start and of the training.
    """

    def __init__(self, size: str, records: Records, seed: int) -> None:
        self.seed = seed
        self.opened = start(size, records, seed=seed)
        self.modality = self.opened.modality

    def rows(self, name: str, records: Records) -> Rows:
        return self.modality.rows(name, records)

    def fitted(self, method: str, settings: Mapping[str, Any], records: Records) -> RunState:
        """A run of a training or by-design method from the start."""
        sets = {"retain": self.rows("retain", records)}
        return loop.run(self._plan(method, settings), copy.deepcopy(self.opened.model), self.modality, sets)

    def forgotten(self, method: str, settings: Mapping[str, Any], run: RunState, records: Records) -> RunState:
        """A run that takes rows out of the store of another one."""
        sets = {"forget": self.rows("forget", records)}
        return loop.run(self._plan(method, settings), copy.deepcopy(self.opened.model), self.modality, sets, store=run.store)

    def _plan(self, method: str, settings: Mapping[str, Any]) -> Any:
        known = {k.name for k in build_plan.hyperparameters(method)}
        return build_plan.plan(method, {**settings, **({"seed": self.seed} if "seed" in known else {})})


def weights_of(run: RunState) -> Tensor:
    """All weights of the model of a run, (weights,)."""
    return torch.cat([t.detach().double().flatten() for t in tensors_of(run.model).values() if t.is_floating_point()])


def passed(run: RunState) -> float:
    """Rows in forward passes of a run, plus twice those in backward passes."""
    return float(run.cost.forward_tokens + 2 * run.cost.backward_tokens)


@torch.no_grad()
def log_probabilities(run: RunState, rows: Rows) -> tuple[Tensor, Tensor]:
    """Of all classes for each row, (rows, classes), and the classes of the rows, (rows,)."""
    (output,) = run.modality.forward(run.model, [rows])
    return output.log_probs.values, output.labels


def accuracy(run: RunState, rows: Rows) -> float:
    """Share of the rows whose most probable class is their own."""
    log_probs, labels = log_probabilities(run, rows)
    return float((log_probs.argmax(-1) == labels).double().mean())

"""The batch, the optimizer and the learning rate of a step. They depend on the step number alone, so there is no position to save."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from expunge.core.plan import Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows, Sets
from expunge.engine.run_state import RunState


def anchor_of(train: Train, sets: Sets) -> str:
    """The name of the set that an epoch is one pass over: the anchor, or forget or retain if a selector left the anchor out."""
    return next(n for n in (train.anchor, "forget", "retain") if n in sets)


def sample(sets: Sets, train: Train, run: RunState) -> Sets:
    """The batch of the current step by set, as a function of the seed and the step number."""

    def rng(*place: object) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(run.seed, run.stage, *place))

    anchor = anchor_of(train, sets)
    order = torch.randperm(len(sets[anchor]), generator=rng("order", run.epoch)).tolist()
    indices = order[run.step * train.batch_size : (run.step + 1) * train.batch_size]
    if len(indices) == 1 < len(order) and not run.modality.independent(run.model):
        indices = order[-2:]  # one row has no batch statistics
    batch = {anchor: sets[anchor].select(indices)}
    for name, rows in sets.items():
        if name != anchor and len(rows):
            drawn = torch.randint(len(rows), (len(indices),), generator=rng(name, run.epoch, run.step)).tolist()
            batch[name] = rows.select([i % len(rows) for i in indices] if train.pairing == "aligned" else drawn)
    return batch


def split(sets: Sets, size: int, together: Iterable[frozenset[str]] = (), least: int = 1) -> list[Sets]:
    """Cut a batch into micro-batches of about `size` rows of the longest set. Every set is cut into the same number of pieces.

    A set whose length is a multiple of the shortest set's is cut at the same rows.

    Args:
        size: rows in one piece; 0 for a single piece.
        together: for each term, the sets that it reads at once. No piece may lack one of them, so there are at most as many pieces as the
            shortest of them has rows.
        least: the number of pieces is a multiple of this, if there are enough rows.

    Returns:
        The micro-batches. A set without rows in a piece is left out of it.
    """
    longest = max(len(r) for r in sets.values())
    pieces = max(math.ceil(longest / size) if size else 1, min(least, longest))
    pieces = min(longest, pieces + -pieces % least)
    pieces = min([pieces, *(len(sets[n]) for names in together if len(names) > 1 for n in names)])
    if pieces <= 1:
        return [sets]
    shortest = min(len(r) for r in sets.values())

    def bound(rows: Rows, i: int) -> int:
        multiple, remainder = divmod(len(rows), shortest) if shortest >= pieces else (1, 1)
        return (i * shortest // pieces) * multiple if not remainder else i * len(rows) // pieces

    pieces_of = {n: [r.select(range(bound(r, i), bound(r, i + 1))) for i in range(pieces)] for n, r in sets.items()}
    return [{n: p[i] for n, p in pieces_of.items() if len(p[i])} for i in range(pieces)]


def lr_at(train: Train, done: float, per_epoch: int) -> float:
    """The learning rate of the next step: linear warm-up, then the schedule, times the decay per epoch.

    Args:
        done: optimizer steps so far.
        per_epoch: optimizer steps in one epoch.
    """
    peak = train.lr * 0.1 ** sum(done >= epoch * per_epoch for epoch in train.lr_milestones) * train.lr_decay ** int(done // per_epoch)
    total, warm = total_steps(train, per_epoch), round(train.warmup * per_epoch)
    if done < warm:
        return peak * (done + 1) / (warm + 1)
    remaining = max(total - done, 0) / max(total - warm, 1)
    return peak * {"constant": 1.0, "linear": remaining, "cosine": (1 - math.cos(math.pi * remaining)) / 2}[train.schedule]


def total_steps(train: Train, per_epoch: int) -> int:
    """The number of optimizer steps of a stage, if nothing stops it."""
    return min(train.steps or 10**9, train.epochs * per_epoch) if train.epochs else train.steps


def optimizer_of(train: Train, params: list[Tensor]) -> torch.optim.Optimizer:
    """A new optimizer with the settings of a stage."""
    kind: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
    momentum = {"momentum": train.momentum} if train.optimizer == "sgd" else {}
    optimizer: torch.optim.Optimizer = kind(params, lr=train.lr, weight_decay=train.weight_decay, **momentum)
    return optimizer

"""What a step trains on, with which optimizer and how fast: functions of the step number, so that there is no position to save."""

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
    """The set that an epoch is one pass over: the anchor, or, where a selector left that out, forget or retain."""
    return next(n for n in (train.anchor, "forget", "retain") if n in sets)


def sample(sets: Sets, train: Train, run: RunState) -> Sets:
    """The batch of a step: a function of the step number, so the sampler has no position to save."""

    def rng(*what: object) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(run.seed, run.stage, *what))

    over = anchor_of(train, sets)
    anchor = sets[over]
    order = torch.randperm(len(anchor), generator=rng("order", run.epoch)).tolist()
    idx = order[run.step * train.batch_size : (run.step + 1) * train.batch_size]
    if len(idx) == 1 < len(order) and not run.modality.independent(run.model):
        idx = order[-2:]  # one row has no batch statistics
    batch = {over: anchor.select(idx)}
    for name, rows in sets.items():
        if name != over and len(rows):
            drawn = torch.randint(len(rows), (len(idx),), generator=rng(name, run.epoch, run.step)).tolist()
            batch[name] = rows.select([i % len(rows) for i in idx] if train.pairing == "aligned" else drawn)
    return batch


def split(sets: Sets, size: int, together: Iterable[frozenset[str]] = (), least: int = 1) -> list[Sets]:
    """Micro-batches of about `size` rows of the longest set: every set is cut into the same number of pieces.

    together: sets that one term reads at once; none of them may be missing from a piece, so there are at most as many pieces as the
    shortest of them has rows. A set that is a multiple of the shortest is cut at the same rows. least: how many pieces there are, or a
    multiple of it, where there are rows enough.
    """
    longest = max(len(r) for r in sets.values())
    pieces = max(math.ceil(longest / size) if size else 1, min(least, longest))
    pieces = min(longest, pieces + -pieces % least)
    pieces = min([pieces, *(len(sets[n]) for names in together if len(names) > 1 for n in names)])
    if pieces <= 1:
        return [sets]
    shortest = min(len(r) for r in sets.values())

    def bound(rows: Rows, i: int) -> int:
        times, rest = divmod(len(rows), shortest) if shortest >= pieces else (1, 1)
        return (i * shortest // pieces) * times if not rest else i * len(rows) // pieces

    cut = {n: [r.select(range(bound(r, i), bound(r, i + 1))) for i in range(pieces)] for n, r in sets.items()}
    return [{n: c[i] for n, c in cut.items() if len(c[i])} for i in range(pieces)]


def lr_at(train: Train, done: float, per_epoch: int) -> float:
    """Learning rate of the step after `done` optimizer steps: linear warm-up, then the schedule, as a function of the step alone."""
    peak = train.lr * 0.1 ** sum(done >= epoch * per_epoch for epoch in train.lr_milestones) * train.lr_decay ** int(done // per_epoch)
    total, warm = total_steps(train, per_epoch), round(train.warmup * per_epoch)
    if done < warm:
        return peak * (done + 1) / (warm + 1)
    left = max(total - done, 0) / max(total - warm, 1)
    return peak * {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[train.schedule]


def total_steps(train: Train, per_epoch: int) -> int:
    return min(train.steps or 10**9, train.epochs * per_epoch) if train.epochs else train.steps


def optimizer_of(train: Train, params: list[Tensor]) -> torch.optim.Optimizer:
    """A new optimizer, as some settings ask for it."""
    kind: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
    more = {"momentum": train.momentum} if train.optimizer == "sgd" else {}
    made: torch.optim.Optimizer = kind(params, lr=train.lr, weight_decay=train.weight_decay, **more)
    return made

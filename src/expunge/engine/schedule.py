"""The batch, the optimizer and the learning rate of a step. They depend on the step number alone, so there is no position to save."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.core.capabilities import Redraws, offers, require
from expunge.core.errors import UserError
from expunge.core.plan import Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows, Sets
from expunge.engine.run_state import RunState

ACCUMULATED = 1e-8  # squared gradients that Adagrad begins with, as in TensorFlow's code of recommenders


def anchor_of(train: Train, sets: Sets) -> str:
    """The name of the set that an epoch is one pass over: the anchor, or forget or retain if a selector left the anchor out."""
    return next(n for n in (train.anchor, "forget", "retain") if n in sets)


def steps_of(rows: int, batch_size: int, independent: bool = True) -> int:
    """The number of batches that a pass over rows takes.

    Args:
        independent: whether the rows of a batch do not affect each other. If they do, a last batch of one row takes another from the
            batch before it, or joins it where that has two.
    """
    alone = not independent and batch_size == 2 and rows > 2 and rows % 2 == 1
    return math.ceil(rows / batch_size) - alone


def check_statistics(train: Train, sets: Sets, read: frozenset[str]) -> list[str]:
    """Check that rows are together with others, for a model that normalizes by the statistics of a batch.

    Args:
        read: names of the sets that the objective reads.

    Returns:
        A warning for each set that has one row.

    Raises:
        UserError: if the batches or micro-batches have one row.
    """
    for size, option in ((train.batch_size, "batch-size"), (train.micro_batch_size, "micro-batch-size")):
        if size == 1 and any(len(rows) > 1 for rows in sets.values()):
            raise UserError(f"one row has no batch statistics, and this model normalizes by them: give --{option} 2 or more")
    single = [n for n, rows in sets.items() if n in read and len(rows) == 1]
    return [f"the only row of {n!r} has no batch statistics, so it is normalized by the model's running ones" for n in single]


def sample(sets: Sets, train: Train, run: RunState) -> Sets:
    """The batch of the current step by set, as a function of the seed and the step number."""

    def rng(*place: object) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(run.seed, run.stage, *place))

    anchor = anchor_of(train, sets)
    order = torch.randperm(len(sets[anchor]), generator=rng("order", run.epoch)).tolist()
    independent = run.modality.independent(run.model)
    steps, size = steps_of(len(order), train.batch_size, independent), train.batch_size
    shared = not independent and len(order) > size > 2 and len(order) % size == 1  # the last row alone gets another to itself
    begin, end = (len(order) if step == steps else step * size - (shared and step == steps - 1) for step in (run.step, run.step + 1))
    indices = order[begin:end]
    batch = {anchor: sets[anchor].select(indices)}
    for name, rows in sets.items():
        if name != anchor and len(rows):
            drawn = torch.randint(len(rows), (len(indices),), generator=rng(name, run.epoch, run.step)).tolist()
            batch[name] = rows.select([i % len(rows) for i in indices] if train.pairing == "aligned" else drawn)
    if offers(run.modality, Redraws):
        modality, place = require(run.modality, Redraws), (run.seed, run.stage, "redraw", run.epoch, run.step)
        batch = {name: modality.redraw(rows, seed_of(*place)) for name, rows in batch.items()}
    return batch


def split(sets: Sets, size: int, together: Iterable[frozenset[str]] = (), least: int = 1, unit: int = 1) -> list[Sets]:
    """Cut a batch into micro-batches of about `size` rows of the longest set. Every set is cut into the same number of pieces.

    A set whose length is a multiple of the shortest set's is cut at the same rows.

    Args:
        size: rows in one piece; 0 for a single piece.
        together: for each term, the sets that it reads at once. No piece may lack one of them, so there are at most as many pieces as the
            shortest of them has rows.
        least: the number of pieces is a multiple of this, if there are enough rows.
        unit: the smallest number of rows of a set in one piece, if the set has so many: 2 where a row needs others for its statistics.

    Returns:
        The micro-batches. A set without rows in a piece is left out of it.
    """
    longest = max(len(r) for r in sets.values())
    most = longest // unit
    pieces = max(math.ceil(longest / size) if size else 1, min(least, most))
    pieces = min(most, pieces + -pieces % least)
    pieces = min([pieces, *(len(sets[n]) // unit for names in together if len(names) > 1 for n in names)])
    if pieces <= 1:
        return [sets]
    shortest = min(len(r) for r in sets.values())

    def place(count: int, i: int) -> int:
        return count if i == pieces else i * (count // unit) // pieces * unit

    def bound(rows: Rows, i: int) -> int:
        multiple, remainder = divmod(len(rows), shortest) if shortest // unit >= pieces else (1, 1)
        return place(shortest, i) * multiple if not remainder else place(len(rows), i)

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
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}
    kind: Any = kinds[train.optimizer]
    own = {"sgd": {"momentum": train.momentum}, "adagrad": {"initial_accumulator_value": ACCUMULATED}}.get(train.optimizer, {})
    optimizer: torch.optim.Optimizer = kind(params, lr=train.lr, weight_decay=train.weight_decay, **own)
    return optimizer


def descend(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], gradients: Sequence[Tensor], held: Sequence[Sequence[Tensor]]
) -> None:
    """A step of the optimizer.

    Args:
        gradients: one for each parameter, of its shape.
        held: masks by parameter, True where a weight stays as it is, not even moved by decay or momentum.
    """
    for p, g in zip(params, gradients, strict=True):
        p.grad = g
    before = [p.detach().clone() for p in params] if held else []
    optimizer.step()
    with torch.no_grad():
        for masks in held:
            for p, old, mask in zip(params, before, masks, strict=True):
                p.copy_(torch.where(mask, old, p))
    optimizer.zero_grad(set_to_none=True)

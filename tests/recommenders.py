"""A tiny world of tastes for tests of recommenders: two blocks of users, two groups of items."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from expunge import catalog
from expunge.benchmarks.common.interactions import described, held_out
from expunge.benchmarks.synthetic.tastes import interactions
from expunge.modalities.ranking.modality import Ranking

Rows = list[Mapping[str, Any]]
MODELS = ("bpr_mf", "wmf", "lightgcn", "neumf", "dmf", "vbpr", "mmgcn", "mgcn")


@functools.cache
def records() -> tuple[Rows, Rows, Rows]:
    """Training rows to forget (of two users), training rows to keep, and unseen rows."""
    world = interactions(seed=3, blocks=2, users=8, items=10, each=7)
    full, unseen = held_out(world.records, 1)
    full = described(full, world.features)
    gone = {"user0a00", "user1b00"}
    return [r for r in full if r["user"] in gone], [r for r in full if r["user"] not in gone], list(unseen)


def built(name: str, seed: int = 0) -> tuple[nn.Module, Ranking]:
    """An untrained model of the smallest size, with the modality, for all training rows."""
    forget, retain, _ = records()
    module = catalog.load(name, "models")
    model, modality = module.start(next(iter(module.SIZES)), [*forget, *retain], seed=seed)
    return model, modality

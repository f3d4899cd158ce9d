"""Pools of models as work: in several processes or on a cluster, kept on disk by what made them, so that nothing is trained twice."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.core.modality import Modality, ModelOutput
from expunge.core.plan import Plan, Plans, as_plans
from expunge.core.random import seed_of
from expunge.core.request import digest
from expunge.core.rows import Rows
from expunge.engine import checkpoint, ensemble, receipt
from expunge.engine.ensemble import Ensemble
from expunge.functional.datamodels import effects
from expunge.functional.margins import margin
from expunge.io.models import cache_home
from expunge.parallel import ray_cluster

Job = tuple[Path, Callable[[], Ensemble]]  # where what it makes is kept


@dataclass(frozen=True)
class Work:
    """How a pool is made. Its numbers do not depend on it, but for the size of a piece, by which results are kept.

    workers: processes, each with one thread; 0: this one. by: processes of this machine, or all those of a Ray cluster, which must share
    the folder (see `cluster.connected`). size: models of a piece: what is trained and kept as a whole. folder: where pieces are kept; None:
    the cache.
    """

    workers: int = 0
    by: Literal["processes", "ray"] = "processes"
    size: int = ensemble.AT_ONCE
    folder: Path | None = None

    @property
    def place(self) -> Path:
        return self.folder or cache_home() / "pools"


HERE = Work()


def train(
    plan: Plan | Plans, model: nn.Module, modality: Modality, rows: Rows, seen: Tensor, *, seed: int = 0, work: Work = HERE
) -> Ensemble:
    """A pool of models trained on subsets of rows; pieces that were made before are read. Arguments as of `core.pool.train`."""
    return ensemble.joined(pieces(plan, model, modality, rows, seen, seed=seed, work=work))


def pieces(
    plan: Plan | Plans, model: nn.Module, modality: Modality, rows: Rows, seen: Tensor, *, seed: int = 0, work: Work = HERE
) -> Iterator[Ensemble]:
    """As `train`, a piece of the pool at a time, for pools that are too large to be held."""
    base = [receipt.hash_weights(model), str(model), modality.about(), _told(rows), receipt.describe(as_plans(plan)), seed]
    jobs: list[Job] = []
    for i in range(0, len(seen), work.size):
        some = seen[i : i + work.size]
        seeds = [seed_of(seed, "model", k) for k in range(i, i + len(some))]
        jobs.append((work.place / digest([*base, i, some.tolist()]), partial(ensemble.train, plan, model, modality, rows, some, seeds)))
    yield from _done(jobs, model, work)


def unlearn(
    plan: Plan | Plans, start: Ensemble, modality: Modality, rows: Rows, forget: Tensor, *, seed: int = 0, work: Work = HERE
) -> Ensemble:
    """The pool after each model has forgotten rows of its own. Arguments as of `core.pool.unlearn`."""
    base = ["unlearn", str(start.model), modality.about(), _told(rows), receipt.describe(as_plans(plan)), seed]
    jobs: list[Job] = []
    for i, some in enumerate(start.pieces(work.size)):
        mine = forget[i * work.size : i * work.size + len(some)]
        seeds = [seed_of(seed, "model", i * work.size + k) for k in range(len(some))]
        key = digest([*base, i, some.seen.tolist(), mine.tolist(), [w.cpu().numpy() for w in some.weights.values()]])
        jobs.append((work.place / key, partial(ensemble.unlearn, plan, some, modality, rows, mine, seeds)))
    return ensemble.joined(_done(jobs, start.model, work))


def margins(models: Ensemble, modality: Modality, rows: Rows) -> Tensor:
    """Scaled logit of the true label, (models, rows); of a row with several labels their mean."""

    def read(answer: ModelOutput) -> Tensor:
        return replace(answer.logits, values=margin(answer.logits.values.float(), answer.labels)).mean()

    return ensemble.ask(models, modality, rows, read)


def attribute(models: Ensemble, modality: Modality, rows: Rows, asked: Rows, folder: Path, ridge: float = 0.0) -> None:
    """Write the effect of each training row on what is said about each of some others, as `dmm --attributions` reads it.

    rows: those of the pool. asked: rows with one label. What is written is a checkpoint {"rows": ids, "asked": ids, "effects":
    (rows, asked, classes) in half precision}; scores of another attribution method can be written in the same way.
    """
    found = effects(models.seen, ensemble.logits(models, modality, asked), ridge)
    checkpoint.save({"rows": list(rows.ids), "asked": list(asked.ids), "effects": found.half()}, folder)


def _told(rows: Rows) -> list[object]:
    return [rows.name, rows.ids, list(rows["answer"]), rows.weight]


def _done(jobs: Sequence[Job], model: nn.Module, work: Work) -> Iterator[Ensemble]:
    """What jobs made, in order, from where they keep it."""
    work.place.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not job[0].exists()]
    if work.workers and missing:
        {"processes": _by_processes, "ray": _by_ray}[work.by](missing, work.workers)
    for path, make in jobs:
        if not path.exists():
            _keep(path, make)
        kept = load_file(path)
        yield Ensemble(model, kept, kept.pop("$seen"))


def _keep(path: Path, make: Callable[[], Ensemble]) -> None:
    """Under a temporary name, then renamed: a piece is whole or not there."""
    made = make()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({**{n: w.cpu().contiguous() for n, w in made.weights.items()}, "$seen": made.seen}, temporary)
    temporary.replace(path)


def _by_processes(jobs: list[Job], workers: int) -> None:
    """Begun anew, not forked: a fork of a process whose threads hold locks may wait for ever."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, torch.set_num_threads, (1,)) as pool_:
        for each in [pool_.submit(_keep, *job) for job in jobs]:
            each.result()


def _by_ray(jobs: list[Job], _: int) -> None:
    ray_cluster.spread(_keep, {path.name: (path.absolute(), make) for path, make in jobs}, jobs[0][0].parent)

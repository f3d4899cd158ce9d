"""Train ensembles in several processes or on a cluster. Results are stored under a digest of their inputs, so nothing is trained twice."""

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
from expunge.engine import checkpoint, ensemble, identity, receipt
from expunge.engine.ensemble import Ensemble
from expunge.functional.datamodels import effects
from expunge.functional.margins import margin
from expunge.io.models import cache_home
from expunge.parallel import ray_cluster

Job = tuple[Path, Callable[[], Ensemble]]  # the file that stores the result, and the function that computes it


@dataclass(frozen=True)
class Work:
    """How an ensemble is computed. The numbers do not depend on it; the stored files depend on `size`.

    Args:
        workers: number of processes with one thread each; 0: this process.
        by: processes of this machine, or those of a Ray cluster, which must share the folder (see `ray_cluster.connected`).
        size: number of models in a piece, which is trained and stored as a whole.
        folder: where pieces are stored; None: the cache.
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
    plan: Plan | Plans, model: nn.Module, modality: Modality, rows: Rows, trained_on: Tensor, *, seed: int = 0, work: Work = HERE
) -> Ensemble:
    """Train an ensemble on subsets of rows; pieces that are stored already are read. Arguments as of `engine.ensemble.train`."""
    return ensemble.joined(pieces(plan, model, modality, rows, trained_on, seed=seed, work=work))


def pieces(
    plan: Plan | Plans, model: nn.Module, modality: Modality, rows: Rows, trained_on: Tensor, *, seed: int = 0, work: Work = HERE
) -> Iterator[Ensemble]:
    """Train as `train` does, but yield the ensemble piece by piece, for ensembles that do not fit in memory."""
    base = [identity.of_model(model), *_common(plan, model, modality, rows, seed)]
    jobs: list[Job] = []
    for i in range(0, len(trained_on), work.size):
        piece = trained_on[i : i + work.size]
        seeds = [seed_of(seed, "model", k) for k in range(i, i + len(piece))]
        jobs.append((work.place / digest([*base, i, piece.tolist()]), partial(ensemble.train, plan, model, modality, rows, piece, seeds)))
    yield from _results(jobs, model, work)


def unlearn(
    plan: Plan | Plans, start: Ensemble, modality: Modality, rows: Rows, forget: Tensor, *, seed: int = 0, work: Work = HERE
) -> Ensemble:
    """Unlearn rows of its own from each model of an ensemble. Arguments as of `engine.ensemble.unlearn`."""
    base = ["unlearn", {**identity.of_model(start.model), "weights": ""}, *_common(plan, start.model, modality, rows, seed)]
    jobs: list[Job] = []
    for i, piece in enumerate(start.pieces(work.size)):
        piece_forget = forget[i * work.size : i * work.size + len(piece)]
        seeds = [seed_of(seed, "model", i * work.size + k) for k in range(len(piece))]
        key = digest([*base, i, piece.trained_on.tolist(), piece_forget.tolist(), identity.of_weights(piece.weights)])
        jobs.append((work.place / key, partial(ensemble.unlearn, plan, piece, modality, rows, piece_forget, seeds)))
    return ensemble.joined(_results(jobs, start.model, work))


def margins(models: Ensemble, modality: Modality, rows: Rows) -> Tensor:
    """Compute the scaled logit of the true label, (models, rows); for a row with several labels, their mean."""

    def read(output: ModelOutput) -> Tensor:
        return replace(output.logits, values=margin(output.logits.values.float(), output.labels)).mean()

    return ensemble.ask(models, modality, rows, read)


def attribute(models: Ensemble, modality: Modality, rows: Rows, queries: Rows, folder: Path, ridge: float = 0.0) -> None:
    """Estimate the effect of each training row on the logits of each evaluated row and write it, as `dmm --attributions` reads it.

    The file is a checkpoint {"rows": ids, "asked": ids, "effects": (rows, queries, classes) in half precision}. Scores of another
    attribution method can be written in the same way.

    Args:
        rows: the training rows of the ensemble.
        queries: rows to evaluate, with one label each.
        folder: where the checkpoint is written.
        ridge: strength of the ridge penalty of the regression.
    """
    row_effects = effects(models.trained_on, ensemble.logits(models, modality, queries), ridge)
    checkpoint.save({"rows": list(rows.ids), "asked": list(queries.ids), "effects": row_effects.half()}, folder)


def _common(plan: Plan | Plans, model: nn.Module, modality: Modality, rows: Rows, seed: int) -> list[object]:
    """What the stored results of training and unlearning depend on besides the weights at the start."""
    plans = as_plans(plan)
    setting = [identity.of_setting(model), modality.about(), identity.of_rows(rows)]
    return [*setting, receipt.describe(plans), identity.of_inputs(plans), seed]


def _results(jobs: Sequence[Job], model: nn.Module, work: Work) -> Iterator[Ensemble]:
    """Run the jobs whose result is missing, and yield the stored results in order."""
    work.place.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not job[0].exists()]
    if work.workers and missing:
        {"processes": _by_processes, "ray": _by_ray}[work.by](missing, work.workers)
    for path, compute in jobs:
        if not path.exists():
            _store(path, compute)
        weights = load_file(path)
        yield Ensemble(model, weights, weights.pop("$seen"))


def _store(path: Path, compute: Callable[[], Ensemble]) -> None:
    """Compute a piece and store it. The file is renamed when it is complete, so it is never seen half-written."""
    piece = compute()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({**{n: w.cpu().contiguous() for n, w in piece.weights.items()}, "$seen": piece.trained_on}, temporary)
    temporary.replace(path)


def _by_processes(jobs: list[Job], workers: int) -> None:
    """Start the processes afresh and do not fork: a fork of a process whose threads hold locks may wait forever."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, torch.set_num_threads, (1,)) as executor:
        for future in [executor.submit(_store, *job) for job in jobs]:
            future.result()


def _by_ray(jobs: list[Job], _: int) -> None:
    ray_cluster.spread(_store, {path.name: (path.absolute(), compute) for path, compute in jobs}, jobs[0][0].parent)

"""Models per minute: training an ensemble at once, one model after the other, and in several processes.

    python -m performance.pools [--json FILE] [--quick] [--workers N]

Small models of two families learn digits from fresh weights, each on half of the rows. All ways train the same models; they differ in the
number of models that share a step. The reference is one by one, and its ratio to `at once` is the gain of batching. Processes gain more if
there are more cores; their time includes their start, a few seconds each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from performance import _bench as bench

from expunge.benchmarks import digits
from expunge.core.rows import Rows
from expunge.engine import ensemble
from expunge.engine.ensemble import Ensemble, subsets
from expunge.parallel import ensembles
from expunge.workflows.build_plan import plan
from expunge.workflows.train import start

SIZES = ("resnet-nano", "vit-nano")
ALONE, TOGETHER = "one by one", "at once"


def ways(size: str, rows: int, epochs: int, workers: int) -> dict[str, Callable[[int], Ensemble]]:
    """The ways to train an ensemble, by name: functions of the number of models."""
    records = digits.load().train["full"][:rows]
    opened = start(size, records)
    data: Rows = opened.modality.rows("retain", records)
    training = plan("retrain", {"epochs": epochs, "lr": 2e-3})

    def at_once(models: int) -> Ensemble:
        return ensemble.train(training, opened.model, opened.modality, data, subsets(rows, models), range(models))

    def one_by_one(models: int) -> Ensemble:
        with mock.patch.object(ensemble, "_plain", return_value=False):
            return at_once(models)

    def processes(models: int) -> Ensemble:
        with tempfile.TemporaryDirectory() as folder:
            work = ensembles.Work(workers, size=-(-models // workers), folder=Path(folder))
            return ensembles.train(training, opened.model, opened.modality, data, subsets(rows, models), work=work)

    return {ALONE: one_by_one, TOGETHER: at_once, f"{workers} processes, at once in each": processes}


def main() -> None:
    arguments = bench.options(__doc__, rounds=(1, 1), workers={"type": int, "default": 2, "help": "processes"})
    torch.set_num_threads(arguments.threads or 1)  # in every process, so that all ways have equal threads
    rows, epochs, models, few = (128, 3, 8, 4) if arguments.quick else (640, 6, 64, 8)
    rates: dict[str, dict[str, float]] = {}
    for size in SIZES:
        ways_here = ways(size, rows, epochs, arguments.workers)
        if arguments.quick and size != SIZES[0]:  # starting processes takes most of a minute
            ways_here = {n: ways_here[n] for n in (ALONE, TOGETHER)}
        ways_here[ALONE](1)  # load everything that is loaded once
        counts = {n: few if n == ALONE else models for n in ways_here}
        times = bench.interleaved({n: partial(way, counts[n]) for n, way in ways_here.items()}, arguments.rounds, warm=False)
        rates[size] = {n: round(60 * counts[n] / times.seconds(n), 1) for n in ways_here}
    faster = {size: round(by_way[TOGETHER] / by_way[ALONE], 2) for size, by_way in rates.items()}
    bench.table(
        [[size, n, v, v / by_way[ALONE]] for size, by_way in rates.items() for n, v in by_way.items()],
        ("model", "", "models a minute", "/ one by one"),
    )
    parts = {"models_per_minute": rates, "at once over one by one": faster, "rows": rows, "epochs": epochs}
    bench.finish(arguments, "pools", {"speedup_over_reference": min(faster.values()), "parts": parts})


if __name__ == "__main__":
    main()

"""Models per minute: training a pool at once, one after the other, and in processes.

    python -m performance.pools [--json FILE] [--quick] [--workers N]

Small models of both families learn digits from fresh weights, each on half of the rows. All ways make the same models; what differs is how
many of them share a step. The reference is one by one, and the ratio of `at once` to it is what batching saves; processes add to it where
there are more cores, and are timed with their start, a few seconds each.
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
    """How a pool can be made, by name: functions of the number of models."""
    records = digits.load().train["full"][:rows]
    opened = start(size, records)
    data: Rows = opened.modality.rows("retain", records)
    how = plan("retrain", {"epochs": epochs, "lr": 2e-3})

    def at_once(models: int) -> Ensemble:
        return ensemble.train(how, opened.model, opened.modality, data, subsets(rows, models), range(models))

    def one_by_one(models: int) -> Ensemble:
        with mock.patch.object(ensemble, "_plain", return_value=False):
            return at_once(models)

    def processes(models: int) -> Ensemble:
        with tempfile.TemporaryDirectory() as folder:
            work = ensembles.Work(workers, size=-(-models // workers), folder=Path(folder))
            return ensembles.train(how, opened.model, opened.modality, data, subsets(rows, models), work=work)

    return {ALONE: one_by_one, TOGETHER: at_once, f"{workers} processes, at once in each": processes}


def main() -> None:
    given = bench.options(__doc__, rounds=(1, 1), workers={"type": int, "default": 2, "help": "processes"})
    torch.set_num_threads(given.threads or 1)  # in every process, so that the ways are compared thread for thread
    rows, epochs, models, few = (128, 3, 8, 4) if given.quick else (640, 6, 64, 8)
    found: dict[str, dict[str, float]] = {}
    for size in SIZES:
        made = ways(size, rows, epochs, given.workers)
        if given.quick and size != SIZES[0]:  # most of a minute goes into starting processes
            made = {n: made[n] for n in (ALONE, TOGETHER)}
        made[ALONE](1)  # what is loaded once is loaded
        many = {n: few if n == ALONE else models for n in made}
        times = bench.interleaved({n: partial(make, many[n]) for n, make in made.items()}, given.rounds, warm=False)
        found[size] = {n: round(60 * many[n] / times.seconds(n), 1) for n in made}
    faster = {size: round(mine[TOGETHER] / mine[ALONE], 2) for size, mine in found.items()}
    bench.table(
        [[size, n, v, v / mine[ALONE]] for size, mine in found.items() for n, v in mine.items()],
        ("model", "", "models a minute", "/ one by one"),
    )
    parts = {"models_per_minute": found, "at once over one by one": faster, "rows": rows, "epochs": epochs}
    bench.finish(given, "pools", {"speedup_over_reference": min(faster.values()), "parts": parts})


if __name__ == "__main__":
    main()

"""Models per minute: training a pool at once, one after the other, and in processes.

    python -m performance.pools [--json FILE] [--quick] [--workers N]

Small models of both families learn digits from fresh weights, each on half of the rows. All ways make the same models; what differs is how
many of them share a step. The ratio of `at once` to `one by one` is what batching saves; processes add to it where there are more cores,
and are timed with their start, a few seconds each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from expunge import pools
from expunge.benchmarks import digits
from expunge.core import pool, receipt
from expunge.core.parts import Rows
from expunge.core.pool import Pool, subsets
from expunge.resolve import plan
from expunge.training import start

SIZES = ("resnet-nano", "vit-nano")


def measured(make: Callable[[int], Pool], models: int) -> float:
    """Models per minute of so many models."""
    begun = time.perf_counter()
    make(models)
    return 60 * models / (time.perf_counter() - begun)


def ways(size: str, rows: int, epochs: int, workers: int) -> dict[str, Callable[[int], Pool]]:
    """How a pool can be made, by name: functions of the number of models."""
    records = digits.load().train["full"][:rows]
    opened = start(size, records)
    data: Rows = opened.port.rows("retain", records)
    how = plan("retrain", {"epochs": epochs, "lr": 2e-3})

    def at_once(models: int) -> Pool:
        return pool.train(how, opened.model, opened.port, data, subsets(rows, models), range(models))

    def one_by_one(models: int) -> Pool:
        with mock.patch.object(pool, "_plain", return_value=False):
            return at_once(models)

    def processes(models: int) -> Pool:
        with tempfile.TemporaryDirectory() as folder:
            work = pools.Work(workers, size=-(-models // workers), folder=Path(folder))
            return pools.train(how, opened.model, opened.port, data, subsets(rows, models), work=work)

    return {"one by one": one_by_one, "at once": at_once, f"{workers} processes, at once in each": processes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="fewer models and rows, within a minute")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    given = parser.parse_args()
    rows, epochs, models, few = (128, 3, 8, 4) if given.quick else (640, 6, 64, 8)
    found: dict[str, Any] = {"models_per_minute": {}, "rows": rows, "epochs": epochs}
    torch.set_num_threads(1)  # in every process, so that the ways are compared thread for thread
    for size in SIZES:
        mine = found["models_per_minute"][size] = {}
        for name, make in ways(size, rows, epochs, given.workers).items():
            if given.quick and "processes" in name and size != SIZES[0]:  # most of a minute goes into starting them
                continue
            make(1) if name == "one by one" else None  # what is loaded once is loaded
            mine[name] = round(measured(make, few if name == "one by one" else models), 1)
            print(f"{size:12} {name:30} {mine[name]:8.1f} models per minute", flush=True)
    found.update(command="python -m performance.pools" + " --quick" * given.quick, versions=receipt.versions(), machine=receipt.machine())
    if given.json:
        receipt.write(given.json, found)
    else:
        print(json.dumps(found["models_per_minute"]))


if __name__ == "__main__":
    main()

"""A sweep of several methods and seeds, compared with the sum of its trainings and evaluations; and on a cluster, with two workers and one.

    python -m performance.sweeps [--json FILE] [--quick] [--methods a,b] [--seeds N] [--cluster WORKERS]

The floor is what no sweep can leave out: in the same run, the time within the training loop (also that of attacks), within the passes
over models (also those that a receipt asks for), and in scores and verdicts. The rest is overhead: loading models, reading and encoding
rows, hashing, writing, the report, and the start of the training of a run. It may take 5 % of the floor. Original and retrained model are
trained before. Time is that of the processor. The reference is the same sweep without what its jobs share. On the cluster of this
machine, the time runs from the first job's start to the last one's end, without the start of workers; two workers must be 1.8 times as
fast as one.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from performance import _bench as bench

from expunge.engine import checkpoint, loop
from expunge.engine.cache import cache_home
from expunge.evaluation import attack, audited_models, observe
from expunge.evaluation.audited_models import AuditedModel
from expunge.io import copies
from expunge.modalities.text import shared_rows
from expunge.parallel import ray_cluster
from expunge.workflows import aftermath, benchmark, unlearn
from expunge.workflows.benchmark import Sweep

METHODS = ("npo", "graddiff", "idk", "undial", "simnpo", "dpo", "wga", "satimp")
MUST, SPEEDUP = 1.05, 1.8  # times the floor; two workers over one
KINDS = ("training", "evaluation", "scores", "rest")


class Watch:
    """Seconds of processor time by kind of work; work inside other work counts for its own kind."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.stack = ["rest"]
        self.since = bench.processor()

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count the block as work of a kind."""
        self._turn()
        self.stack.append(kind)
        try:
            yield
        finally:
            self._turn()
            self.stack.pop()

    def _turn(self) -> None:
        now = bench.processor()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    def watched(self, call: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """A function that counts as work of a kind."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.during(kind):
                return call(*arguments, **options)

        return timed


def watched(sweep: Sweep) -> dict[str, float]:
    """Seconds of a sweep by kind of work, and in all."""
    watch, evaluating = Watch(), observe.evaluating

    @contextmanager
    def passing(model: Any) -> Iterator[None]:
        with watch.during("evaluation"), evaluating(model):
            yield

    kinds: dict[tuple[Any, str], str] = {  # where the work of a kind begins
        (loop._Stage, "run"): "training",
        (checkpoint, "save"): "rest",
        (audited_models, "observe"): "rest",
        (attack, "observe"): "rest",
        (aftermath, "forget_loss"): "evaluation",
        (unlearn, "forget_loss"): "evaluation",
        (audited_models, "judged"): "scores",
        (attack, "audit_scores"): "scores",
        (AuditedModel, "judge"): "scores",
    }
    with ExitStack() as stack:
        for (owner, name), kind in kinds.items():
            stack.enter_context(mock.patch.object(owner, name, watch.watched(getattr(owner, name), kind)))
        stack.enter_context(mock.patch.object(observe, "evaluating", passing))
        run(sweep)
    watch._turn()
    return watch.seconds


def run(sweep: Sweep, ray: str = "") -> None:
    """Carry a sweep out in a new folder, with an empty cache of observations."""
    shutil.rmtree(cache_home() / "observations", ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        benchmark.bench(sweep, folder, ray=ray)


def alone(sweep: Sweep) -> dict[str, float]:
    """The seconds of a sweep whose jobs share nothing."""
    with ExitStack() as stack:
        for sharer in (shared_rows, copies, aftermath):
            stack.enter_context(mock.patch.object(sharer, "shared", return_value=None))
        return watched(sweep)


def on_cluster(sweep: Sweep, workers: int) -> float:
    """Seconds of wall clock of the jobs of a sweep on workers of this machine, which have started and computed before."""
    seconds: list[float] = []
    spread = ray_cluster.spread

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        results = spread(*arguments, **options)
        seconds.append(time.perf_counter() - began)
        return results

    with mock.patch.object(ray_cluster, "spread", timed), ray_cluster.connected(f"local:{workers}"):
        run(replace(sweep, methods=sweep.methods[:1], seeds=workers), "local")
        run(sweep, "local")
    return seconds[-1]


def main() -> None:
    arguments = bench.options(
        __doc__,
        rounds=(3, 1),
        methods={"default": ",".join(METHODS), "help": "which methods"},
        seeds={"type": int, "default": 3, "help": "how many seeds"},
        people={"type": int, "default": 20, "help": "people in the data"},
        reference={"type": int, "default": 1, "help": "0: leave the sweep out whose jobs share nothing"},
        cluster={"type": int, "default": 2, "help": "workers of the cluster, compared with one; 0: no cluster"},
    )
    methods, seeds, people = arguments.methods.split(","), arguments.seeds, arguments.people
    if arguments.quick:
        methods, seeds, people = methods[:2], 1, 8
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, EXPUNGE_CACHE=cache):
        measure(arguments, Sweep("people", tuple(methods), model=arguments.model or "nano", seeds=seeds, sizes={"people": people}))


def measure(arguments: Namespace, sweep: Sweep) -> None:
    """Time a sweep, and write the numbers."""
    run(replace(sweep, methods=sweep.methods[:1], seeds=1))  # trains the original and the retrained model, and loads all libraries
    ways = {"sharing": watched, "alone": alone} if arguments.reference else {"sharing": watched}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for i in range(arguments.rounds):
        for name, way in ways.items():
            taken[name].append(way(sweep))
        bench.log(f"round {i + 1} of {arguments.rounds}")
    seconds = {name: {kind: statistics.median(t[kind] for t in of_way) for kind in KINDS} for name, of_way in taken.items()}
    ratios = {name: statistics.median(sum(t.values()) / (sum(t.values()) - t["rest"]) for t in of_way) for name, of_way in taken.items()}
    bench.table([[n, *s.values(), ratios[n]] for n, s in seconds.items()], ("", *(f"{kind}, s" for kind in KINDS), "/ floor"))
    parts: dict[str, Any] = {
        "seconds": {n: {kind: round(x, 3) for kind, x in s.items()} for n, s in seconds.items()},
        "ratios": {n: round(x, 3) for n, x in ratios.items()},
        "jobs": len(sweep.methods) * sweep.seeds,
        "must": MUST,
    }
    if arguments.cluster and not arguments.quick:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else workers give way to all other processes, which would then be measured
        walls = {workers: on_cluster(sweep, workers) for workers in (1, arguments.cluster)}
        parts["cluster"] = {
            "seconds": {str(n): round(x, 1) for n, x in walls.items()},
            "speedup": round(walls[1] / walls[arguments.cluster], 2),
        }
        parts["cluster"]["must"] = SPEEDUP
        print(f"{arguments.cluster} workers are {parts['cluster']['speedup']} times as fast as one")
    numbers: dict[str, Any] = {"ratio_to_floor": parts["ratios"]["sharing"], "parts": parts}
    if arguments.reference:
        gains = [sum(b.values()) / sum(a.values()) for a, b in zip(taken["sharing"], taken["alone"], strict=True)]
        numbers["speedup_over_reference"] = round(statistics.median(gains), 2)
    bench.finish(arguments, "sweeps", numbers)


if __name__ == "__main__":
    main()

"""What the benchmarks share: options, the work to be timed, interleaved rounds, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from expunge import catalog
from expunge.benchmarks.suite import Suite
from expunge.engine import receipt
from expunge.io.models import Opened, load
from expunge.workflows.train import start, texts_of, train

Way = Callable[[], object]
IMPORTS = ("performance.training", "expunge.evaluation.observe", "transformers.models.llama.modeling_llama")  # what processes begin with


def options(doc: str | None, rounds: tuple[int, int] = (5, 3), **more: Any) -> argparse.Namespace:
    """The options of all benchmarks. rounds: how many by default, and of a quick run; more: one's own, with what `add_argument` takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="less of everything, within a minute on two cores")
    parser.add_argument(
        "--rounds", type=int, default=0, help=f"how often each way is timed, by turns; default {rounds[0]}, quick {rounds[1]}"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads; default as many as there are")
    parser.add_argument("--data", default="", help="a local copy of TOFU; default: fictitious people that are made on the spot")
    parser.add_argument("--items", type=int, default=0, help="at most so many items of each set")
    parser.add_argument("--split", default="forget10", help="what is forgotten of it")
    parser.add_argument(
        "--model", default="", help="a folder with a model; default: one that is made, trained where that matters, and kept"
    )
    for name, how in more.items():
        parser.add_argument(f"--{name}", **how)
    given = parser.parse_args()
    given.own = {name: how["default"] for name, how in more.items()}
    given.rounds = given.rounds or rounds[given.quick]
    _threads(given.threads)
    return given


def suite(given: argparse.Namespace) -> Suite:
    """What is audited and trained on: TOFU with a holdout of its own, or people."""
    if given.data:
        made: Suite = catalog.load("tofu", "benchmarks").load(given.data, given.split, holdout="carve")
    else:
        made = catalog.load("people", "benchmarks").load(split=given.split, **({"people": 20} if given.quick else {}))
    return made


def original(given: argparse.Namespace, made: Suite, trained: bool = True) -> Opened:
    """The model that was trained on everything, of the size that the suite has recipes for; untrained, where weights do not matter."""
    if given.model:
        return load(given.model, made.prompt_format)
    size = "tiny" if given.data else "nano" if given.quick else "micro"
    texts = texts_of([*made.train["full"], *made.sets.get("real_authors", ()), *made.sets.get("world_facts", ())])
    if not trained:
        return start(size, made.train["full"], texts, prompt_format=made.prompt_format)
    said(f"training a {size} model on {len(made.train['full'])} rows, unless that was done before")
    found = train(made.train["full"], size, texts=texts, prompt_format=made.prompt_format)
    return Opened(found.model, found.modality, size)


@dataclass
class Times:
    """Seconds by way and round, of the clock and of the processor; the latter suffers less from neighbours on the machine."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, wall: float, cpu: float) -> None:
        self.wall.setdefault(name, []).append(wall)
        self.cpu.setdefault(name, []).append(cpu)

    def seconds(self, name: str, clock: str = "wall") -> float:
        return statistics.median(getattr(self, clock)[name])

    def ratio(self, over: Sequence[str] | str, under: Sequence[str] | str, clock: str = "wall") -> float:
        """The median over rounds of the ratio of sums of ways: what slows a whole round down cancels out."""
        top, bottom = ([getattr(self, clock)[n] for n in ([x] if isinstance(x, str) else x)] for x in (over, under))
        return statistics.median(sum(a) / sum(b) for a, b in zip(zip(*top, strict=True), zip(*bottom, strict=True), strict=True))


def interleaved(ways: Mapping[str, Way], rounds: int, warm: bool = True, times: Times | None = None) -> Times:
    """Time each way in each round. warm: run each once before that, untimed."""
    times = times or Times()
    for i in range(rounds + warm):
        for name, way in ways.items():
            _wait()
            wall, cpu = time.perf_counter(), processor()
            way()
            _wait()
            if i >= warm:
                times.add(name, time.perf_counter() - wall, processor() - cpu)
        if rounds + warm > 1:
            said(f"round {i + 1} of {rounds + warm}")
    return times


def processor() -> float:
    """Seconds of processor time of this process and those that it waited for."""
    return sum(os.times()[:4])


def apart(call: Callable[..., Any], given: argparse.Namespace, *more: Any) -> Any:
    """What a function of the options returns in a fresh process: a copy of one that has imported everything and has done nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTS])
    with ProcessPoolExecutor(1, mp_context=context, initializer=_threads, initargs=(given.threads,)) as pool:
        return pool.submit(call, given, *more).result()


def _threads(many: int) -> None:
    if many:
        torch.set_num_threads(many)


def used() -> int:
    """Bytes in use, with the highest use so far forgotten."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/statm")
    if not clear.exists():  # no way to forget it
        return receipt.peak_memory()
    clear.write_text("5")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The highest use since then, in bytes."""
    status = Path("/proc/self/status")
    if torch.cuda.is_available() or not status.exists():
        return receipt.peak_memory()
    line = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM")), "")
    return int(line.split()[1]) * 1024 if line else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def said(text: str) -> None:
    """Progress goes beside the table."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> None:
    """Print columns, numbers to the right."""
    cells = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row, given in ((head, head), *zip(cells, rows, strict=True)):
        aligned = (c.rjust(w) if isinstance(x, (int, float)) else c.ljust(w) for c, w, x in zip(row, widths, given, strict=True))
        print("  ".join(aligned).rstrip())


def finish(given: argparse.Namespace, module: str, found: Mapping[str, Any]) -> None:
    """Write the numbers, with the command and the machine that made them, where that was asked for."""
    words = [f"python -m performance.{module}", "--quick" * given.quick, f"--rounds {given.rounds}"]
    usual = {"threads": 0, "items": 0, "data": "", "split": "forget10", "model": "", **given.own}
    words += [f"--{n} {getattr(given, n)}" for n, default in usual.items() if getattr(given, n) != default]
    whole = {**found, "command": " ".join(w for w in words if w), "versions": receipt.versions(), "machine": receipt.machine()}
    if given.json:
        receipt.write(given.json, whole)
    else:
        print(json.dumps({n: whole[n] for n in ("ratio_to_floor", "speedup_over_reference") if n in whole}))

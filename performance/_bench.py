"""Shared code of the benchmarks: options, the work to be timed, interleaved rounds, a table and a JSON file."""

from __future__ import annotations

import argparse
import ctypes
import gc
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
# Modules that new processes import first.
IMPORTS = ("performance.training", "expunge.evaluation.observe", "transformers.models.llama.modeling_llama")


def options(doc: str | None, rounds: tuple[int, int] = (5, 3), **own: Any) -> argparse.Namespace:
    """Parse the options of a benchmark.

    Args:
        doc: description of the benchmark.
        rounds: default number of rounds, normally and in a quick run.
        own: options of this benchmark, with the arguments of `add_argument`; `batch_size` becomes `--batch-size`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="less of everything, within a minute on two cores")
    parser.add_argument(
        "--rounds", type=int, default=0, help=f"number of times that each way is timed, in turns; default {rounds[0]}, quick {rounds[1]}"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads; default: all")
    parser.add_argument("--data", default="", help="a local copy of TOFU; default: fictitious people")
    parser.add_argument("--items", type=int, default=0, help="the most items of each set; 0: all")
    parser.add_argument("--split", default="forget10", help="the split to forget")
    parser.add_argument("--model", default="", help="a folder with a model; default: a small one that is trained if necessary, and cached")
    for name, settings in own.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    arguments = parser.parse_args()
    arguments.own = {name: settings["default"] for name, settings in own.items()}
    arguments.rounds = arguments.rounds or rounds[arguments.quick]
    _threads(arguments.threads)
    return arguments


def suite(arguments: argparse.Namespace) -> Suite:
    """The data: TOFU with a carved holdout set, or people."""
    if arguments.data:
        benchmark: Suite = catalog.load("tofu", "benchmarks").load(arguments.data, arguments.split, holdout="carve")
    else:
        benchmark = catalog.load("people", "benchmarks").load(split=arguments.split, **({"people": 20} if arguments.quick else {}))
    return benchmark


def original(arguments: argparse.Namespace, benchmark: Suite, trained: bool = True) -> Opened:
    """The original model, in the size with presets for the suite; untrained if the weights do not matter."""
    if arguments.model:
        return load(arguments.model, benchmark.prompt_format)
    size = "tiny" if arguments.data else "nano" if arguments.quick else "micro"
    texts = texts_of([*benchmark.train["full"], *benchmark.sets.get("real_authors", ()), *benchmark.sets.get("world_facts", ())])
    if not trained:
        return start(size, benchmark.train["full"], texts, prompt_format=benchmark.prompt_format)
    log(f"training a {size} model on {len(benchmark.train['full'])} rows, unless the cache has it")
    result = train(benchmark.train["full"], size, texts=texts, prompt_format=benchmark.prompt_format)
    return Opened(result.model, result.modality, size)


@dataclass
class Times:
    """Seconds of wall clock and of processor time, by way and round; other processes on the machine disturb processor time less."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, wall: float, cpu: float) -> None:
        """Add one round of a way, in seconds."""
        self.wall.setdefault(name, []).append(wall)
        self.cpu.setdefault(name, []).append(cpu)

    def seconds(self, name: str, clock: str = "wall") -> float:
        """The median over rounds."""
        return statistics.median(getattr(self, clock)[name])

    def ratio(self, over: Sequence[str] | str, under: Sequence[str] | str, clock: str = "wall") -> float:
        """The median over rounds of the ratio of two sums of ways; anything that slows down a whole round cancels out."""
        top, bottom = ([getattr(self, clock)[n] for n in ([x] if isinstance(x, str) else x)] for x in (over, under))
        return statistics.median(sum(a) / sum(b) for a, b in zip(zip(*top, strict=True), zip(*bottom, strict=True), strict=True))


def interleaved(ways: Mapping[str, Way], rounds: int, warm: bool = True, times: Times | None = None) -> Times:
    """Time all ways in turns, round by round; `warm` adds a first round without timing."""
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
            log(f"round {i + 1} of {rounds + warm}")
    return times


def processor() -> float:
    """Seconds of processor time of this process and its finished children."""
    return time.process_time() + sum(os.times()[2:4])


def in_new_process(call: Callable[..., Any], arguments: argparse.Namespace, *inputs: Any) -> Any:
    """Call a function of the options in a new process, which has imported all modules but done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTS])
    with ProcessPoolExecutor(1, mp_context=context, initializer=_threads, initargs=(arguments.threads,)) as pool:
        return pool.submit(call, arguments, *inputs).result()


def _threads(count: int) -> None:
    if count:
        torch.set_num_threads(count)


def reset_peak_memory() -> int:
    """Reset the peak memory and return the bytes in use now; memory that was freed goes back to the system first, else it hides a peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/statm")
    if not clear.exists():  # the system cannot reset the peak
        return receipt.peak_memory()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    clear.write_text("5")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Peak memory since `reset_peak_memory`, in bytes."""
    status = Path("/proc/self/status")
    if torch.cuda.is_available() or not status.exists():
        return receipt.peak_memory()
    line = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM")), "")
    return int(line.split()[1]) * 1024 if line else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def log(text: str) -> None:
    """Print progress to the error stream."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> None:
    """Print a table with numbers aligned to the right."""
    cells = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row, values in ((head, head), *zip(cells, rows, strict=True)):
        aligned = (c.rjust(w) if isinstance(x, (int, float)) else c.ljust(w) for c, w, x in zip(row, widths, values, strict=True))
        print("  ".join(aligned).rstrip())


def finish(arguments: argparse.Namespace, module: str, numbers: Mapping[str, Any]) -> None:
    """Write the numbers, the command, the versions and the machine to the file of `--json`, or print the ratios."""
    words = [f"python -m performance.{module}", "--quick" * arguments.quick, f"--rounds {arguments.rounds}"]
    defaults = {"threads": 0, "items": 0, "data": "", "split": "forget10", "model": "", **arguments.own}
    words += [f"--{n.replace('_', '-')} {getattr(arguments, n)}" for n, default in defaults.items() if getattr(arguments, n) != default]
    record = {**numbers, "command": " ".join(w for w in words if w), "versions": receipt.versions(), "machine": receipt.machine()}
    if arguments.json:
        receipt.write(arguments.json, record)
    else:
        print(json.dumps({n: record[n] for n in ("ratio_to_floor", "speedup_over_reference") if n in record}))

"""What the benchmarks share: options, the work to be timed, interleaved rounds, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from expunge.audit.suite import Suite
from expunge.core import catalog, receipt
from expunge.loading import Opened, load
from expunge.training import start, texts_of, train

Way = Callable[[], object]


def options(doc: str | None, **more: Any) -> argparse.Namespace:
    """The options of all benchmarks. more: options of one of them, with what `add_argument` takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="less of everything, within a minute on two cores")
    parser.add_argument("--rounds", type=int, default=0, help="how often each way is timed, by turns; default 5, quick 3")
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
    given.rounds = given.rounds or (3 if given.quick else 5)
    if given.threads:
        torch.set_num_threads(given.threads)
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
    return Opened(found.model, found.port, size)


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
        said(f"round {i + 1} of {rounds + warm}")
    return times


def processor() -> float:
    """Seconds of processor time of this process and those that it waited for."""
    return sum(os.times()[:4])


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
    words += [
        f"--{n} {getattr(given, n)}" for n in ("threads", "items", "data", "split", "model") if getattr(given, n) not in ("", 0, "forget10")
    ]
    whole = {**found, "command": " ".join(w for w in words if w), "versions": receipt.versions(), "machine": receipt.machine()}
    if given.json:
        receipt.write(given.json, whole)
    else:
        print(json.dumps({n: whole[n] for n in ("ratio_to_floor", "speedup_over_reference") if n in whole}))

"""What a laptop can still do: documents of thousands of tokens with a large vocabulary, and a model of a billion weights.

    python -m performance.large [--json FILE] [--quick] [--cases a,b]

Untrained models read rows of random words, and run an epoch of GradDiff of one step whose micro-batches hold one row of each set. The floor
of the reading is the bare body over the same sequences and the head and a cross-entropy at the labels, in chunks. The model of a billion
weights is in bfloat16. Peak memory is above that of model and rows, in a new process; beside it stand the bytes of the float32 logits at
every position of one row.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

import torch
from performance import _bench as bench
from performance import scale
from performance.evaluation import Workload

from expunge.engine.run_state import evaluating

LARGE_VOCABULARY = 128_256
CASES: dict[str, tuple[scale.Point, torch.dtype]] = {
    **{
        f"documents of {length}": (scale.Point(rows=4, length=length, vocabulary=LARGE_VOCABULARY, width=256, layers=4), torch.float32)
        for length in (2048, 4096, 8192)
    },
    "a billion weights": (scale.Point(rows=8, length=64, vocabulary=LARGE_VOCABULARY, width=2048, layers=16), torch.bfloat16),
}
QUICK: dict[str, tuple[scale.Point, torch.dtype]] = {
    "documents of 128": (scale.Point(rows=4, length=128, vocabulary=512, width=64, layers=2), torch.float32),
    "half precision": (scale.Point(rows=4, length=32, vocabulary=512, width=64, layers=2), torch.bfloat16),
}
WAYS = ("reading", scale.ONE_BY_ONE)


def opened(point: scale.Point, dtype: torch.dtype) -> scale.Case:
    """The model and the rows of a case."""
    case = scale.Case(point)
    case.opened.model.to(dtype)
    return case


def measured(arguments: Namespace, name: str, way: str) -> dict[str, float]:
    """Seconds and peak memory of a way, after a small case has loaded all code; of the reading also the ratio to its floor."""
    cases = QUICK if arguments.quick else CASES
    scale.Case(scale.SMALL).ways()[way]()
    case = opened(*cases[name])
    before = bench.reset_peak_memory()
    first = bench.interleaved({way: case.ways()[way]}, 1, warm=False)
    numbers = {"bytes": bench.peak_memory() - before, "seconds": round(first.seconds(way), 3)}
    if way == "reading":
        work = Workload(case.opened, case.records)
        with evaluating(case.opened.model), torch.no_grad():
            times = bench.interleaved({"bare": lambda: scale.bare(work), way: case.ways()[way]}, arguments.rounds)
        numbers["to_floor"] = round(times.ratio(way, "bare"), 3)
    return numbers


def main() -> None:
    arguments = bench.options(__doc__, (2, 1), cases={"default": "", "help": "only these cases, separated by commas"})
    wanted = arguments.cases.split(",") if arguments.cases else []
    cases = {n: c for n, c in (QUICK if arguments.quick else CASES).items() if not wanted or n in wanted}
    parts: dict[str, Any] = {}
    for name, (point, dtype) in cases.items():
        by_way = {way: bench.in_new_process(measured, arguments, name, way) for way in WAYS}
        precision = str(dtype).removeprefix("torch.")
        about = {**asdict(point), "parameters": scale.parameters(point), "precision": precision}
        parts[name] = {**about, **by_way, "logits of a row": scale.whole_logits_bytes(point, 1)}
        bench.log(f"{name}: {by_way}")
    bench.table(
        [[n, *(x for w in WAYS for x in (p[w]["seconds"], p[w]["bytes"] / 2**20)), p["reading"]["to_floor"]] for n, p in parts.items()],
        ("", "reading s", "MB", "step s", "MB", "reading / floor"),
    )
    bench.finish(arguments, "large", {"ratio_to_floor": max(p["reading"]["to_floor"] for p in parts.values()), "parts": parts})


if __name__ == "__main__":
    main()

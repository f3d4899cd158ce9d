"""Peak memory of unlearning relative to plain fine-tuning, and of an evaluation relative to its number of rows.

    python -m performance.memory [--json FILE] [--quick] [--data FOLDER] [--model FOLDER] [--methods a,b]

Each way runs in its own process. The number is the peak memory above the memory before the start (on a GPU, memory allocated by torch). The
floor is the plain loop of `performance.training` over the batches of GradDiff. The memory of an evaluation must not grow with the rows, so
it runs over some rows and over four times as many; it may take 1.2 times as much as the bare passes over the same rows, the body alone and
`generate` of the library. What an audit says that its largest pass will take is compared with that, and an evaluation whose passes are
bounded with the bound.
"""

from __future__ import annotations

from typing import Any

import torch
from performance import _bench as bench
from performance import evaluation, training

from expunge.engine import memory
from expunge.evaluation.observe import observe
from expunge.workflows.room import largest_pass

FEW = 1  # methods of a quick run
BOUND = 2**25  # bytes that the passes of a bounded evaluation may take
MUST = 1.1  # the largest allowed ratio to plain fine-tuning
MUST_TO_BARE = 1.2  # of an evaluation to the bare passes over its rows
FLOORS = ("plain", "lean")


def one(arguments: Any, name: str) -> int:
    """Peak memory of one way in this process, in bytes."""
    suite = bench.suite(arguments)
    opened = bench.original(arguments, suite, trained=False)
    items = arguments.items or (64 if arguments.quick else 256)
    rows = {n: opened.modality.rows(n, suite.train[n][:items]) for n in ("forget", "retain")}
    sets = {**rows, "alternate_answers": opened.modality.answers(list(suite.refusals) or opened.modality.refusals())}
    way, _, factor = name.partition(" x")
    if way in ("evaluation", "bounded"):
        records = {n: r[: items // 8 * int(factor or 1)] for n, r in suite.sets.items()}
        room = BOUND if way == "bounded" else 0
        before = bench.reset_peak_memory()
        with memory.bounded(room):
            observe(opened.model, opened.modality, records, specs=suite.specs)
    elif way == "bare":
        work = evaluation.Workload(opened, {n: r[: items // 8] for n, r in suite.sets.items()}, suite.specs)
        before = bench.reset_peak_memory()
        with torch.no_grad():
            evaluation.body(work)
            evaluation.generate(work)
    elif way == "said":
        return largest_pass(opened, {n: r[: items // 8] for n, r in suite.sets.items()})
    elif way in FLOORS:
        pairs = [tuple(zip(r["prompt"], r["answer"], strict=True))[: arguments.batch_size] for r in rows.values()]
        batches = [[*pairs[0], *pairs[1]]] * 2
        like = training.plans("graddiff", opened.model, opened.modality, arguments.batch_size)[0].train
        before = bench.reset_peak_memory()
        training.floor(opened, batches, like, lean=way == "lean")
    else:
        few = {n: r.select(range(min(len(r), 2 * arguments.batch_size))) if n != "alternate_answers" else r for n, r in sets.items()}
        before = bench.reset_peak_memory()
        training.unlearn(way, opened, few, arguments.batch_size)
    return bench.peak_memory() - before


def main() -> None:
    arguments = bench.options(
        __doc__,
        methods={"default": ",".join(training.METHODS), "help": "which methods"},
        batch_size={"type": int, "default": 32, "help": "rows of each set in a step"},
    )
    methods = arguments.methods.split(",")[: FEW if arguments.quick else None]  # each way has its own process, which takes seconds to start
    ways = [*FLOORS, *methods, "evaluation x1", "evaluation x4", "bare", "said", "bounded"]
    peaks = {}
    for way in ways:
        peaks[way] = bench.in_new_process(one, arguments, way)
        bench.log(f"{way}: {peaks[way] / 2**20:.0f} MB")
    ratios = {m: round(peaks[m] / peaks["plain"], 3) for m in methods}
    bench.table(
        [[w, b / 2**20, b / peaks["plain"] if w in (*FLOORS, *ratios) else b / peaks["evaluation x1"]] for w, b in peaks.items()],
        ("", "MB", "/ plain, or one part of the rows"),
    )
    parts = {
        "bytes": peaks,
        "to_plain": ratios,
        "must": MUST,
        "four times the rows": round(peaks["evaluation x4"] / peaks["evaluation x1"], 3),
        "peak to bare": round(peaks["evaluation x1"] / peaks["bare"], 3),
        "must to bare": MUST_TO_BARE,
        "peak to said": round(peaks["evaluation x1"] / peaks["said"], 3),
        "bound": BOUND,
        "bounded to bound": round(peaks["bounded"] / BOUND, 3),
    }
    bench.finish(arguments, "memory", {"ratio_to_floor": max(ratios.values()), "parts": parts})


if __name__ == "__main__":
    main()

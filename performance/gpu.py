"""A whole evaluation, and an epoch of NPO, of a model with a billion weights in bfloat16 on a GPU, compared with the same bare calls.

    python -m performance.gpu [--json FILE] [--quick]

An untrained model of the Llama family reads and answers rows of random words. The floor of the evaluation is a bare forward pass of the
body over all sequences, sorted by length, and `generate` of the library for all questions; the floor of the epoch is a plain loop over the
same batches with the same optimizer. Peak memory is that of torch above the model. Without a GPU, or with `--quick`, model and rows are
small, which tests the measurement and says nothing of a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from performance import _bench as bench
from performance import evaluation, scale, training

from expunge.engine.run_state import evaluating

LARGE = scale.Point(rows=512, length=256, vocabulary=128_256, width=2048, layers=16)
QUICK = scale.Point(rows=16, length=32, vocabulary=512, width=64, layers=2)
BATCH = 8  # rows of each set in a step
FLOORS = {"evaluation": ("body", "generate"), "npo": ("plain",)}


def measured(point: scale.Point, rounds: int) -> dict[str, Any]:
    """Seconds of all ways, ratios to their floors, and peak memory in bytes, of a model in bfloat16."""
    case = scale.Case(point)
    case.opened.model.to(torch.bfloat16)
    work = evaluation.Workload(case.opened, case.records)
    batches = training.unlearn("npo", case.opened, case.sets, BATCH)
    like = training.plans("npo", case.opened.model, case.opened.modality, BATCH)[0].train
    asked = {
        "body": lambda: evaluation.body(work),
        "generate": lambda: evaluation.generate(work),
        "evaluation": lambda: evaluation.ours(work),
    }
    trained = {
        "plain": lambda: training.floor(case.opened, batches, like),
        "npo": lambda: training.unlearn("npo", case.opened, case.sets, BATCH),
    }
    with evaluating(work.model), torch.no_grad():
        times = bench.interleaved(asked, rounds)
        peaks = {name: peak(way) for name, way in asked.items()}
    bench.interleaved(trained, rounds, times=times)
    peaks |= {name: peak(way) for name, way in trained.items()}
    return {
        "parameters": scale.parameters(point),
        "rows": point.rows,
        "tokens a row": point.length,
        "seconds": {name: round(times.seconds(name), 3) for name in times.wall},
        "ratios": {name: round(times.ratio(name, floor), 3) for name, floor in FLOORS.items()},
        "bytes": peaks,
    }


def peak(way: bench.Way) -> int:
    """Peak memory of a way above the memory before it, in bytes."""
    before = bench.reset_peak_memory()
    way()
    return bench.peak_memory() - before


def main() -> None:
    arguments = bench.options(__doc__, rounds=(3, 1))
    parts = measured(LARGE if torch.cuda.is_available() and not arguments.quick else QUICK, arguments.rounds)
    bench.table(
        [[n, s, parts["bytes"][n] / 2**20, parts["ratios"].get(n, "")] for n, s in parts["seconds"].items()], ("", "s", "MB", "/ floor")
    )
    bench.finish(arguments, "gpu", {"ratio_to_floor": max(parts["ratios"].values()), "parts": parts})


if __name__ == "__main__":
    main()

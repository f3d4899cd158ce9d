"""Greedy answers to all questions of an evaluation, compared with `generate` of the library.

    python -m performance.generation [--json FILE] [--quick] [--data FOLDER] [--model FOLDER]

The floor is `generate` in batches of 128 sorted by length; the reference is the usual call in research code, in batches of 32 in the
arguments order. Finished answers leave our batches. `begun` also skips tokens that the reading of the true answers has shown already; this
helps most if a model recites the answers, and not at all otherwise. All ways must generate the same tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from performance import _bench as bench
from performance.evaluation import Workload, generate

from expunge.engine.run_state import evaluating


def main() -> None:
    arguments = bench.options(__doc__)
    suite = bench.suite(arguments)
    work = Workload(
        bench.original(arguments, suite), {n: r[: arguments.items or (12 if arguments.quick else None)] for n, r in suite.sets.items()}
    )
    sets, limits = list(work.questions.values()), [work.longest_answer(rows) for rows in work.questions.values()]
    answers_by_way: dict[str, Any] = {}
    with evaluating(work.model), torch.no_grad():
        reading = work.modality.read(work.model, list(work.rows.values()))

        def keep(name: str, answers: Any) -> None:
            answers_by_way[name] = answers

        ways = {
            "generate, 128 sorted": lambda: keep("generate, 128 sorted", list(generate(work).values())),
            "generate, 32 as they come": lambda: keep("generate, 32 as they come", list(generate(work, 32, False).values())),
            "ours": lambda: keep("ours", work.modality.recite(work.model, sets, limits)[0]),
            "ours, begun": lambda: keep("ours, begun", work.modality.recite(work.model, sets, limits, reading)[0]),
        }
        times = bench.interleaved(ways, arguments.rounds)
        known = work.modality.recite(work.model, sets, limits, reading)[1]
    floor, reference = list(ways)[:2]
    differ = {
        n: sum(a != b for x, y in zip(answers_by_way[n], answers_by_way[floor], strict=True) for a, b in zip(x, y, strict=True))
        for n in ways
    }
    tokens = sum(len(a) for x in answers_by_way[floor] for a in x)
    bench.table(
        [[n, times.seconds(n), times.ratio(n, floor), times.ratio(n, floor, "cpu"), differ[n]] for n in ways],
        ("", "s", "/ floor", "/ floor, cpu", "answers that differ"),
    )
    numbers = {
        "ratio_to_floor": round(times.ratio("ours", floor), 3),
        "speedup_over_reference": round(times.ratio(reference, "ours"), 2),
        "parts": {
            "answers": sum(map(len, sets)),
            "tokens": tokens,
            "tokens known from the reading": known,
            "seconds": {n: round(times.seconds(n), 3) for n in ways},
            "ratio_to_floor": {c: {n: round(times.ratio(n, floor, c), 3) for n in ways} for c in ("wall", "cpu")},
            "answers that differ": differ,
        },
    }
    bench.finish(arguments, "generation", numbers)


if __name__ == "__main__":
    main()

"""Greedy answers to all questions of an evaluation, against the library's own `generate`.

    python -m performance.generation [--json FILE] [--quick] [--data FOLDER] [--model FOLDER]

The floor is `generate` in batches of 128 that are sorted by length; the reference is how research code calls it, in batches of 32 as they
come. Finished answers leave our batches; `begun` also skips what the reading of the true answers has shown, which helps most where a model
recites and not at all where it does not. All ways must say the same, token for token.
"""

from __future__ import annotations

from typing import Any

import torch
from performance import _bench as bench
from performance.evaluation import Work, generate

from expunge.engine.run_state import evaluating


def main() -> None:
    given = bench.options(__doc__)
    made = bench.suite(given)
    work = Work(bench.original(given, made), {n: r[: given.items or (12 if given.quick else None)] for n, r in made.sets.items()})
    sets, limits = list(work.asked.values()), [work.room(rows) for rows in work.asked.values()]
    said: dict[str, Any] = {}
    with evaluating(work.model), torch.no_grad():
        reading = work.modality.read(work.model, list(work.rows.values()))

        def keep(name: str, answers: Any) -> None:
            said[name] = answers

        ways = {
            "generate, 128 sorted": lambda: keep("generate, 128 sorted", list(generate(work).values())),
            "generate, 32 as they come": lambda: keep("generate, 32 as they come", list(generate(work, 32, False).values())),
            "ours": lambda: keep("ours", work.modality.recite(work.model, sets, limits)[0]),
            "ours, begun": lambda: keep("ours, begun", work.modality.recite(work.model, sets, limits, reading)[0]),
        }
        times = bench.interleaved(ways, given.rounds)
        known = work.modality.recite(work.model, sets, limits, reading)[1]
    floor, reference = list(ways)[:2]
    differ = {n: sum(a != b for x, y in zip(said[n], said[floor], strict=True) for a, b in zip(x, y, strict=True)) for n in ways}
    tokens = sum(len(a) for x in said[floor] for a in x)
    bench.table(
        [[n, times.seconds(n), times.ratio(n, floor), times.ratio(n, floor, "cpu"), differ[n]] for n in ways],
        ("", "s", "/ floor", "/ floor, cpu", "answers that differ"),
    )
    found = {
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
    bench.finish(given, "generation", found)


if __name__ == "__main__":
    main()

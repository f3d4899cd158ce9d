"""Peak memory of unlearning against plain fine-tuning, and of an evaluation against its number of rows.

    python -m performance.memory [--json FILE] [--quick] [--data FOLDER] [--model FOLDER] [--methods a,b]

Each way is a process of its own; what counts is the highest use above that before it began (on a GPU, what torch allocated). The floor is
the plain loop of `performance.training`, over the batches of GradDiff. Evaluation must not grow with the rows: it is run over some and over
four times as many.
"""

from __future__ import annotations

from typing import Any

from performance import _bench as bench
from performance import training

from expunge.evaluation.observe import observe

FEW = 1  # methods of a quick run
MUST = 1.1
FLOORS = ("plain", "lean")


def one(given: Any, name: str) -> int:
    """Bytes that one way takes in this process."""
    made = bench.suite(given)
    opened = bench.original(given, made, trained=False)
    items = given.items or (64 if given.quick else 256)
    rows = {n: opened.modality.rows(n, made.train[n][:items]) for n in ("forget", "retain")}
    sets = {**rows, "alternate_answers": opened.modality.answers(list(made.refusals) or opened.modality.refusals())}
    way, _, many = name.partition(" x")
    if way == "evaluation":
        records = {n: r[: items // 8 * int(many)] for n, r in made.sets.items()}
        before = bench.used()
        observe(opened.model, opened.modality, records)
    elif way in FLOORS:
        pairs = [tuple(zip(r["prompt"], r["answer"], strict=True))[: given.batch] for r in rows.values()]
        batches = [[*pairs[0], *pairs[1]]] * 2
        like = training.plans("graddiff", opened.model, opened.modality, given.batch)[0].train
        before = bench.used()
        training.floor(opened, batches, like, lean=way == "lean")
    else:
        few = {n: r.select(range(min(len(r), 2 * given.batch))) if n != "alternate_answers" else r for n, r in sets.items()}
        before = bench.used()
        training.unlearn(way, opened, few, given.batch)
    return bench.peak() - before


def main() -> None:
    given = bench.options(
        __doc__,
        methods={"default": ",".join(training.METHODS), "help": "which methods"},
        batch_size={"type": int, "default": 32, "help": "rows a step"},
    )
    methods = given.methods.split(",")[: FEW if given.quick else None]  # each way is a process of its own, which takes seconds to start
    ways = [*FLOORS, *methods, "evaluation x1", "evaluation x4"]
    found = {}
    for way in ways:
        found[way] = bench.apart(one, given, way)
        bench.answer_texts(f"{way}: {found[way] / 2**20:.0f} MB")
    ratios = {m: round(found[m] / found["plain"], 3) for m in methods}
    bench.table(
        [[w, b / 2**20, b / found["plain"] if w in (*FLOORS, *ratios) else b / found["evaluation x1"]] for w, b in found.items()],
        ("", "MB", "/ plain, or one part of the rows"),
    )
    parts = {
        "bytes": found,
        "to_plain": ratios,
        "must": MUST,
        "four times the rows": round(found["evaluation x4"] / found["evaluation x1"], 3),
    }
    bench.finish(given, "memory", {"ratio_to_floor": max(ratios.values()), "parts": parts})


if __name__ == "__main__":
    main()
